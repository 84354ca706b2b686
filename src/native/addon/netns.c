/*
 * A short list of system calls, run in order on a thread of its own, inside another network namespace when one is
 * given. A socket or tun descriptor belongs to the namespace of the thread that opened it, whoever uses it later, and
 * /proc/sys/net shows the namespace of the thread that looks; so this is all that is needed to work in a pod's
 * namespace without ever entering it on the event loop.
 *
 * An operation that fails ends the list (the rest answers ECANCELED) unless it is marked optional. Nothing is undone
 * here: the caller gets every descriptor that was opened and closes what it does not want.
 */
#include "addon.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

enum operation {
  OP_SOCKET,       /* a = family, b = type, c = protocol -> descriptor */
  OP_SETSOCKOPT,   /* fd, a = level, b = name, data */
  OP_BIND,         /* fd, data = struct sockaddr */
  OP_OPEN,         /* path, a = flags -> descriptor */
  OP_IOCTL,        /* fd, a = request, data = argument, in and out -> bytes */
  OP_IOCTL_NUMBER, /* fd, a = request, b = argument by value */
  OP_WRITE_FILE,   /* path, data */
  OP_READ_FILE,    /* path -> bytes, at most READ_FILE_MAX */
  OP_EXCHANGE,     /* netlink socket fd, data -> datagrams */
  OP_UNSHARE_NET,  /* -> descriptor of a new network namespace, in which the rest of the list runs */
  OP_CLOSE,        /* slot: closes what that operation opened; the end of an nfnetlink socket may take long */
  OP_COUNT
};

enum {
  MAX_OPERATIONS = 4096, /* 8 queues take a NIC 40 */
  READ_FILE_MAX = 64 * 1024,
  /* The kernel makes dump datagrams of at most 32 KiB (netlink_dump in net/netlink/af_netlink.c), unless one message is larger. */
  DATAGRAM_MAX = 256 * 1024,
  /* All answers to one exchange; a larger dump is refused with EMSGSIZE instead of filling the memory. */
  EXCHANGE_MAX = 64 * 1024 * 1024
};

typedef struct datagram {
  struct datagram *next;
  size_t length;
  uint8_t bytes[];
} datagram;

typedef struct {
  enum operation kind;
  int fd;   /* -1: use that of operation `slot` */
  int slot; /* -1: none */
  uint32_t a, b, c;
  bool optional;
  char *path;
  uint8_t *data;
  size_t length;
  /* Results. */
  int error;
  int opened; /* -1: none, or handed over */
  bool has_data;
  datagram *first, **last;
} step;

typedef struct {
  caisson_job job;
  int netns; /* a duplicate of ours; -1: stay where we are */
  size_t count;
  uint8_t *buffer; /* of DATAGRAM_MAX, made by the first exchange */
  step steps[];
} run;

/* ---- The thread's side --------------------------------------------------------------------------------------- */

static int write_file(const char *path, const uint8_t *data, size_t length) {
  CAISSON_AUTO_CLOSE int fd = (int)CAISSON_RETRY(open(path, O_WRONLY | O_CLOEXEC));
  if (fd < 0) return errno;
  ssize_t written = CAISSON_RETRY(write(fd, data, length));
  if (written < 0) return errno;
  return (size_t)written == length ? 0 : EIO;
}

static int read_file(step *at) {
  CAISSON_AUTO_CLOSE int fd = (int)CAISSON_RETRY(open(at->path, O_RDONLY | O_CLOEXEC));
  if (fd < 0) return errno;
  free(at->data);
  at->length = 0;
  at->data = malloc(READ_FILE_MAX);
  if (at->data == NULL) return ENOMEM;
  while (at->length < READ_FILE_MAX) {
    ssize_t got = CAISSON_RETRY(read(fd, at->data + at->length, READ_FILE_MAX - at->length));
    if (got < 0) return errno;
    if (got == 0) break;
    at->length += (size_t)got;
  }
  at->has_data = true;
  return 0;
}

/*
 * Sends to the kernel and takes every answer. rtnetlink and nfnetlink handle a request before send() returns, and a
 * dump goes on whenever a part of it is received, so what is not there after the last receive will not come.
 */
static int exchange(run *all, step *at, int fd) {
  if (all->buffer == NULL) all->buffer = malloc(DATAGRAM_MAX);
  if (all->buffer == NULL) return ENOMEM;
  ssize_t sent = CAISSON_RETRY(send(fd, at->data, at->length, MSG_NOSIGNAL));
  if (sent < 0) return errno;
  if ((size_t)sent != at->length) return EIO;
  at->last = &at->first;
  size_t total = 0;
  for (;;) {
    ssize_t got = CAISSON_RETRY(recv(fd, all->buffer, DATAGRAM_MAX, MSG_DONTWAIT | MSG_TRUNC));
    if (got < 0) return errno == EAGAIN ? 0 : errno;
    total += (size_t)got;
    if (got > DATAGRAM_MAX || total > EXCHANGE_MAX) return EMSGSIZE;
    datagram *copy = malloc(sizeof *copy + (size_t)got);
    if (copy == NULL) return ENOMEM;
    copy->next = NULL;
    copy->length = (size_t)got;
    memcpy(copy->bytes, all->buffer, (size_t)got);
    *at->last = copy;
    at->last = &copy->next;
  }
}

static int opened(step *at, long fd) {
  if (fd < 0) return errno;
  at->opened = (int)fd;
  return 0;
}

static int perform(run *all, step *at) {
  int fd = at->slot >= 0 ? all->steps[at->slot].opened : at->fd;
  switch (at->kind) {
    case OP_SOCKET:
      return opened(at, socket((int)at->a, (int)at->b | SOCK_CLOEXEC, (int)at->c));
    case OP_SETSOCKOPT:
      return setsockopt(fd, (int)at->a, (int)at->b, at->data, (socklen_t)at->length) < 0 ? errno : 0;
    case OP_BIND:
      return bind(fd, (const struct sockaddr *)at->data, (socklen_t)at->length) < 0 ? errno : 0;
    case OP_OPEN:
      return opened(at, CAISSON_RETRY(open(at->path, (int)at->a | O_CLOEXEC)));
    case OP_IOCTL:
      at->has_data = true;
      return CAISSON_RETRY(ioctl(fd, at->a, at->data)) < 0 ? errno : 0;
    case OP_IOCTL_NUMBER:
      return CAISSON_RETRY(ioctl(fd, at->a, (unsigned long)at->b)) < 0 ? errno : 0;
    case OP_WRITE_FILE:
      return write_file(at->path, at->data, at->length);
    case OP_READ_FILE:
      return read_file(at);
    case OP_EXCHANGE:
      return exchange(all, at, fd);
    case OP_UNSHARE_NET:
      if (unshare(CLONE_NEWNET) < 0) return errno;
      return opened(at, CAISSON_RETRY(open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC)));
    case OP_CLOSE:
      if (at->slot < 0 || fd < 0) return EBADF;
      all->steps[at->slot].opened = -1;
      close(fd);
      return 0;
    case OP_COUNT:
      break;
  }
  return ENOSYS;
}

static void run_steps(caisson_job *job) {
  run *all = (run *)job;
  if (all->netns >= 0 && setns(all->netns, CLONE_NEWNET) < 0) {
    caisson_job_fail(job, errno, "setns", NULL);
    return;
  }
  bool stopped = false;
  for (size_t i = 0; i < all->count; i++) {
    step *at = &all->steps[i];
    at->error = stopped ? ECANCELED : perform(all, at);
    if (at->error != 0 && !at->optional) stopped = true;
  }
}

/* ---- The event loop's side ------------------------------------------------------------------------------------- */

static napi_value bytes_value(napi_env env, const void *data, size_t length) {
  void *target = NULL;
  napi_value buffer, array = NULL;
  if (napi_create_arraybuffer(env, length, &target, &buffer) != napi_ok) return NULL;
  if (length > 0) memcpy(target, data, length);
  napi_create_typedarray(env, napi_uint8_array, length, buffer, 0, &array);
  return array;
}

static napi_value step_result(napi_env env, step *at) {
  napi_value object;
  if (napi_create_object(env, &object) != napi_ok) return NULL;
  caisson_set(env, object, "errno", caisson_number(env, at->error));
  if (at->opened >= 0) {
    caisson_set(env, object, "fd", caisson_number(env, at->opened));
    at->opened = -1;
  }
  if (at->has_data) caisson_set(env, object, "data", bytes_value(env, at->data, at->length));
  if (at->kind == OP_EXCHANGE) {
    napi_value list;
    uint32_t index = 0;
    napi_create_array(env, &list);
    for (datagram *part = at->first; part != NULL; part = part->next)
      napi_set_element(env, list, index++, bytes_value(env, part->bytes, part->length));
    caisson_set(env, object, "datagrams", list);
  }
  return object;
}

static napi_value run_result(napi_env env, caisson_job *job) {
  run *all = (run *)job;
  napi_value list;
  if (napi_create_array_with_length(env, all->count, &list) != napi_ok) return NULL;
  for (size_t i = 0; i < all->count; i++) napi_set_element(env, list, (uint32_t)i, step_result(env, &all->steps[i]));
  return list;
}

static void run_destroy(caisson_job *job) {
  run *all = (run *)job;
  for (size_t i = 0; i < all->count; i++) {
    step *at = &all->steps[i];
    if (at->opened >= 0) close(at->opened);
    free(at->path);
    free(at->data);
    while (at->first != NULL) {
      datagram *next = at->first->next;
      free(at->first);
      at->first = next;
    }
  }
  if (all->netns >= 0) close(all->netns);
  free(all->buffer);
  free(all);
}

/* Integer element `index` of the array, within int64; absent or of another type: `fallback`. */
static int64_t element_number(napi_env env, napi_value array, uint32_t index, int64_t fallback) {
  napi_value element;
  int64_t number;
  if (napi_get_element(env, array, index, &element) != napi_ok || napi_get_value_int64(env, element, &number) != napi_ok)
    return fallback;
  return number;
}

/* An operation as TypeScript writes it: [kind, fd, slot, a, b, c, optional, path | null, data | null]. */
static bool parse_step(napi_env env, napi_value array, size_t index, step *at) {
  caisson_args parts = {.env = env, .count = 2};
  int64_t kind = element_number(env, array, 0, OP_COUNT);
  at->fd = (int)element_number(env, array, 1, -1);
  at->slot = (int)element_number(env, array, 2, -1);
  at->a = (uint32_t)element_number(env, array, 3, 0);
  at->b = (uint32_t)element_number(env, array, 4, 0);
  at->c = (uint32_t)element_number(env, array, 5, 0);
  at->optional = element_number(env, array, 6, 0) != 0;
  if (kind < 0 || kind >= OP_COUNT || at->slot >= (int)index) {
    napi_throw_type_error(env, "ERR_INVALID_ARG_TYPE", "unknown operation, or one that uses a later one");
    return false;
  }
  at->kind = (enum operation)kind;
  if (napi_get_element(env, array, 7, &parts.value[0]) != napi_ok) return false;
  if (napi_get_element(env, array, 8, &parts.value[1]) != napi_ok) return false;
  if (!caisson_arg_optional_string(&parts, 0, "path", &at->path)) return false;
  bool typed = false;
  napi_is_typedarray(env, parts.value[1], &typed);
  if (typed) {
    uint8_t *data;
    if (!caisson_arg_bytes(&parts, 1, "data", &data, &at->length)) return false;
    at->data = malloc(at->length + 1);
    if (at->data == NULL) return caisson_throw(env, ENOMEM, "malloc", NULL) != NULL;
    memcpy(at->data, data, at->length);
  }
  bool wants_path = at->kind == OP_OPEN || at->kind == OP_WRITE_FILE || at->kind == OP_READ_FILE;
  bool wants_data = at->kind == OP_SETSOCKOPT || at->kind == OP_BIND || at->kind == OP_IOCTL ||
                    at->kind == OP_WRITE_FILE || at->kind == OP_EXCHANGE;
  if ((wants_path && at->path == NULL) || (wants_data && at->data == NULL)) {
    napi_throw_type_error(env, "ERR_INVALID_ARG_TYPE", "an operation lacks its path or its data");
    return false;
  }
  return true;
}

/* runInNetns(netns: number, operations: array): Promise<{errno, fd?, data?, datagrams?}[]>; netns -1: the own one. */
static napi_value run_in_netns(napi_env env, napi_callback_info info) {
  caisson_args args;
  int netns;
  uint32_t count;
  if (!caisson_args_get(env, info, &args) || !caisson_arg_int(&args, 0, "netns", &netns)) return NULL;
  if (napi_get_array_length(env, args.value[1], &count) != napi_ok || count > MAX_OPERATIONS)
    return caisson_throw(env, EINVAL, "runInNetns", "operations");
  run *all = calloc(1, sizeof *all + count * sizeof(step));
  if (all == NULL) return caisson_throw(env, ENOMEM, "malloc", NULL);
  all->job = (caisson_job){.run = run_steps, .result = run_result, .destroy = run_destroy};
  all->netns = -1;
  for (size_t i = 0; i < count; i++) {
    napi_value element;
    all->steps[i].opened = -1;
    all->count = i + 1;
    if (napi_get_element(env, args.value[1], (uint32_t)i, &element) != napi_ok || !parse_step(env, element, i, &all->steps[i])) {
      run_destroy(&all->job);
      return NULL;
    }
  }
  if (netns >= 0 && (all->netns = fcntl(netns, F_DUPFD_CLOEXEC, 0)) < 0) {
    int error = errno;
    run_destroy(&all->job);
    return caisson_throw(env, error, "fcntl", NULL);
  }
  return caisson_job_start(env, &all->job);
}

void caisson_init_netns(napi_env env, napi_value exports) {
  static const caisson_function functions[] = {{"runInNetns", run_in_netns}};
  caisson_define(env, exports, functions, CAISSON_COUNT(functions));
}
