/* bpf(2): a call for attributes without pointers, and those whose attributes hold pointers. */
#include "addon.h"

#include <linux/bpf.h>
#include <sys/syscall.h>

enum { LOG_BYTES = 64 * 1024 };

static long bpf(int command, union bpf_attr *attributes, unsigned size) {
  return CAISSON_RETRY(syscall(SYS_bpf, command, attributes, size));
}

/* bpfCall(command: number, attributes: Uint8Array): number; the kernel's answers are written into `attributes`. */
static napi_value bpf_call(napi_env env, napi_callback_info info) {
  caisson_args args;
  int command;
  uint8_t *data;
  size_t length;
  if (!caisson_args_get(env, info, &args) || !caisson_arg_int(&args, 0, "command", &command) ||
      !caisson_arg_bytes(&args, 1, "attributes", &data, &length))
    return NULL;
  union bpf_attr attributes = {0};
  if (length > sizeof attributes) return caisson_throw(env, E2BIG, "bpf", NULL);
  memcpy(&attributes, data, length);
  long result = bpf(command, &attributes, (unsigned)length);
  if (result < 0) return caisson_throw(env, errno, "bpf", NULL);
  memcpy(data, &attributes, length);
  return caisson_number(env, result);
}

/*
 * bpfLoad(type: number, instructions: Uint8Array, name: string, attachType: number): number, a descriptor. The licence
 * is GPL, which the redirect helpers need. The error's `log` is what the verifier said: asked for in a second attempt, because writing
 * it makes loading slower.
 */
static napi_value bpf_load(napi_env env, napi_callback_info info) {
  caisson_args args;
  uint32_t type, attach_type;
  uint8_t *code;
  size_t length;
  CAISSON_AUTO_FREE char *name = NULL;
  if (!caisson_args_get(env, info, &args) || !caisson_arg_u32(&args, 0, "type", &type) ||
      !caisson_arg_bytes(&args, 1, "instructions", &code, &length) || !caisson_arg_string(&args, 2, "name", &name) ||
      !caisson_arg_u32(&args, 3, "attachType", &attach_type))
    return NULL;
  union bpf_attr attributes = {0};
  attributes.prog_type = type;
  attributes.expected_attach_type = attach_type;
  attributes.insn_cnt = (uint32_t)(length / sizeof(struct bpf_insn));
  attributes.insns = (uint64_t)(uintptr_t)code;
  attributes.license = (uint64_t)(uintptr_t) "GPL";
  strncpy(attributes.prog_name, name, sizeof attributes.prog_name - 1);
  long fd = bpf(BPF_PROG_LOAD, &attributes, sizeof attributes);
  if (fd >= 0) return caisson_number(env, fd); /* the kernel makes it CLOEXEC */
  int error = errno;
  CAISSON_AUTO_FREE char *log = calloc(1, LOG_BYTES);
  if (log != NULL && error != EPERM) {
    attributes.log_level = 1;
    attributes.log_size = LOG_BYTES;
    attributes.log_buf = (uint64_t)(uintptr_t)log;
    fd = bpf(BPF_PROG_LOAD, &attributes, sizeof attributes);
    if (fd >= 0) return caisson_number(env, fd);
  }
  napi_value thrown = caisson_error(env, error, "bpf", name), text;
  if (thrown == NULL) return NULL;
  if (log != NULL && napi_create_string_utf8(env, log, NAPI_AUTO_LENGTH, &text) == napi_ok)
    caisson_set(env, thrown, "log", text);
  napi_throw(env, thrown);
  return NULL;
}

/* bpfMapUpdate(map: number, key: Uint8Array, value: Uint8Array): the lengths must be those of the map. */
static napi_value bpf_map_update(napi_env env, napi_callback_info info) {
  caisson_args args;
  int map;
  uint8_t *key, *value;
  size_t key_length, value_length;
  if (!caisson_args_get(env, info, &args) || !caisson_arg_fd(&args, 0, "map", &map) ||
      !caisson_arg_bytes(&args, 1, "key", &key, &key_length) || !caisson_arg_bytes(&args, 2, "value", &value, &value_length))
    return NULL;
  union bpf_attr attributes = {0};
  attributes.map_fd = (uint32_t)map;
  attributes.key = (uint64_t)(uintptr_t)key;
  attributes.value = (uint64_t)(uintptr_t)value;
  attributes.flags = BPF_ANY;
  if (bpf(BPF_MAP_UPDATE_ELEM, &attributes, sizeof attributes) < 0) return caisson_throw(env, errno, "bpf", "map");
  return caisson_undefined(env);
}

void caisson_init_bpf(napi_env env, napi_value exports) {
  static const caisson_function functions[] = {{"bpfCall", bpf_call}, {"bpfLoad", bpf_load}, {"bpfMapUpdate", bpf_map_update}};
  caisson_define(env, exports, functions, CAISSON_COUNT(functions));
}
