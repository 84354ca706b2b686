/* The addon's entry, its per-environment state, and the helpers of addon.h. */
#include "addon.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>

/* One line per capability file. */
#define CAPABILITIES(X) \
  X(fd)                 \
  X(mount)              \
  X(process)            \
  X(vsock)              \
  X(watcher)             \
  X(netns)               \
  X(notify)              \
  X(pages)               \
  X(bpf)

#define DECLARE(name) void caisson_init_##name(napi_env env, napi_value exports);
CAPABILITIES(DECLARE)
#undef DECLARE

typedef void (*init_function)(napi_env env, napi_value exports);
#define ENTRY(name) caisson_init_##name,
static const init_function capabilities[] = {CAPABILITIES(ENTRY)};
#undef ENTRY

/* A job needs little stack; the default of 8 MiB would only be address space, but is counted by RLIMIT_AS. */
enum { JOB_STACK_BYTES = 256 * 1024 };

/*
 * State of one environment (the main thread, or a worker). Lives until the environment ended and the last job's thread
 * is gone, because a hung system call must not keep the process from exiting.
 */
typedef struct {
  napi_env env; /* NULL once ended; loop thread only */
  napi_async_context async_context;
  napi_ref resource;
  napi_async_cleanup_hook_handle cleanup;
  uv_async_t wake;         /* a job finished */
  size_t jobs_running;     /* loop thread only */
  size_t handles_open;     /* `wake` and the registered handles */
  caisson_handle *handles; /* registered, not yet closed */
  pthread_mutex_t mutex;   /* guards what follows */
  bool ended;
  caisson_job *finished, **finished_tail;
  size_t references; /* the environment and each job's thread */
} environment;

/* ---- Definition -------------------------------------------------------------------------------------------- */

void caisson_define(napi_env env, napi_value exports, const caisson_function *functions, size_t count) {
  for (size_t i = 0; i < count; i++) {
    napi_value function;
    if (napi_create_function(env, functions[i].name, NAPI_AUTO_LENGTH, functions[i].call, NULL, &function) == napi_ok)
      napi_set_named_property(env, exports, functions[i].name, function);
  }
}

void caisson_define_constant(napi_env env, napi_value exports, const char *name, int64_t value) {
  napi_set_named_property(env, exports, name, caisson_number(env, value));
}

/* ---- Errors ------------------------------------------------------------------------------------------------ */

napi_value caisson_error(napi_env env, int errnum, const char *syscall, const char *subject) {
  const char *name = strerrorname_np(errnum);
  const char *text = strerrordesc_np(errnum);
  char code[32];
  if (name == NULL) {
    snprintf(code, sizeof code, "E%d", errnum);
    name = code;
  }
  char message[512];
  snprintf(message, sizeof message, "%s: %s, %s%s%s", name, text == NULL ? "unknown error" : text, syscall,
           subject == NULL || *subject == '\0' ? "" : " ", subject == NULL ? "" : subject);
  napi_value code_value, message_value, error, syscall_value;
  napi_create_string_utf8(env, name, NAPI_AUTO_LENGTH, &code_value);
  napi_create_string_utf8(env, message, NAPI_AUTO_LENGTH, &message_value);
  napi_create_string_utf8(env, syscall, NAPI_AUTO_LENGTH, &syscall_value);
  if (napi_create_error(env, code_value, message_value, &error) != napi_ok) return NULL;
  napi_set_named_property(env, error, "errno", caisson_number(env, -(int64_t)errnum));
  napi_set_named_property(env, error, "syscall", syscall_value);
  return error;
}

napi_value caisson_throw(napi_env env, int errnum, const char *syscall, const char *subject) {
  napi_value error = caisson_error(env, errnum, syscall, subject);
  if (error != NULL) napi_throw(env, error);
  return NULL;
}

/* ---- Arguments --------------------------------------------------------------------------------------------- */

static bool wrong_type(const caisson_args *args, const char *name, const char *expected) {
  char message[128];
  snprintf(message, sizeof message, "argument \"%s\" must be %s", name, expected);
  napi_throw_type_error(args->env, "ERR_INVALID_ARG_TYPE", message);
  return false;
}

bool caisson_args_get(napi_env env, napi_callback_info info, caisson_args *args) {
  args->env = env;
  args->count = CAISSON_MAX_ARGS;
  return napi_get_cb_info(env, info, &args->count, args->value, NULL, NULL) == napi_ok;
}

/* An integer within [low, high]. */
static bool integer(const caisson_args *args, size_t index, const char *name, double low, double high, double *out) {
  if (napi_get_value_double(args->env, args->value[index], out) == napi_ok && *out >= low && *out <= high &&
      *out == (double)(int64_t)*out)
    return true;
  return wrong_type(args, name, "an integer in range");
}

bool caisson_arg_int(const caisson_args *args, size_t index, const char *name, int *out) {
  double number;
  if (!integer(args, index, name, INT32_MIN, INT32_MAX, &number)) return false;
  *out = (int)number;
  return true;
}

bool caisson_arg_u32(const caisson_args *args, size_t index, const char *name, uint32_t *out) {
  double number;
  if (!integer(args, index, name, 0, UINT32_MAX, &number)) return false;
  *out = (uint32_t)number;
  return true;
}

bool caisson_arg_u64(const caisson_args *args, size_t index, const char *name, uint64_t *out) {
  bool lossless = false;
  if (napi_get_value_bigint_uint64(args->env, args->value[index], out, &lossless) == napi_ok && lossless) return true;
  double number;
  if (!integer(args, index, name, 0, 9007199254740991.0, &number)) return false;
  *out = (uint64_t)number;
  return true;
}

bool caisson_arg_fd(const caisson_args *args, size_t index, const char *name, int *out) {
  double number;
  if (!integer(args, index, name, 0, INT32_MAX, &number)) return false;
  *out = (int)number;
  return true;
}

bool caisson_arg_bool(const caisson_args *args, size_t index, const char *name, bool *out) {
  if (napi_get_value_bool(args->env, args->value[index], out) == napi_ok) return true;
  return wrong_type(args, name, "a boolean");
}

bool caisson_arg_string(const caisson_args *args, size_t index, const char *name, char **out) {
  size_t length;
  if (napi_get_value_string_utf8(args->env, args->value[index], NULL, 0, &length) != napi_ok)
    return wrong_type(args, name, "a string");
  char *text = malloc(length + 1);
  if (text == NULL) {
    caisson_throw(args->env, ENOMEM, "malloc", NULL);
    return false;
  }
  napi_get_value_string_utf8(args->env, args->value[index], text, length + 1, &length);
  if (memchr(text, 0, length) != NULL) {
    free(text);
    return wrong_type(args, name, "a string without a NUL character");
  }
  *out = text;
  return true;
}

bool caisson_arg_optional_string(const caisson_args *args, size_t index, const char *name, char **out) {
  napi_valuetype type;
  if (napi_typeof(args->env, args->value[index], &type) == napi_ok && (type == napi_null || type == napi_undefined)) {
    *out = NULL;
    return true;
  }
  return caisson_arg_string(args, index, name, out);
}

bool caisson_arg_bytes(const caisson_args *args, size_t index, const char *name, uint8_t **data, size_t *length) {
  bool typed = false;
  napi_typedarray_type type;
  if (napi_is_typedarray(args->env, args->value[index], &typed) != napi_ok || !typed ||
      napi_get_typedarray_info(args->env, args->value[index], &type, length, (void **)data, NULL, NULL) != napi_ok ||
      type != napi_uint8_array)
    return wrong_type(args, name, "a Uint8Array");
  return true;
}

bool caisson_arg_fds(const caisson_args *args, size_t index, const char *name, int *out, size_t max, size_t *count) {
  uint32_t length;
  if (napi_get_array_length(args->env, args->value[index], &length) != napi_ok || length > max)
    return wrong_type(args, name, "an array of not too many descriptors");
  for (uint32_t i = 0; i < length; i++) {
    double number;
    napi_value element;
    if (napi_get_element(args->env, args->value[index], i, &element) != napi_ok) return false;
    if (napi_get_value_double(args->env, element, &number) != napi_ok || number < 0 || number > INT32_MAX)
      return wrong_type(args, name, "an array of descriptors");
    out[i] = (int)number;
  }
  *count = length;
  return true;
}

/* ---- Results and resources ----------------------------------------------------------------------------------- */

napi_value caisson_undefined(napi_env env) {
  napi_value value = NULL;
  napi_get_undefined(env, &value);
  return value;
}

napi_value caisson_null(napi_env env) {
  napi_value value = NULL;
  napi_get_null(env, &value);
  return value;
}

napi_value caisson_bool(napi_env env, bool boolean) {
  napi_value value = NULL;
  napi_get_boolean(env, boolean, &value);
  return value;
}

napi_value caisson_number(napi_env env, int64_t number) {
  napi_value value = NULL;
  napi_create_int64(env, number, &value);
  return value;
}

void caisson_set(napi_env env, napi_value object, const char *name, napi_value value) {
  napi_set_named_property(env, object, name, value);
}

void caisson_auto_free_pointer(void *slot) { free(*(void **)slot); }

void caisson_auto_close_fd(int *fd) {
  if (*fd < 0) return;
  int saved = errno;
  close(*fd);
  errno = saved;
}

/* ---- Environment ------------------------------------------------------------------------------------------- */

static void environment_release(environment *state) {
  pthread_mutex_lock(&state->mutex);
  bool last = --state->references == 0;
  pthread_mutex_unlock(&state->mutex);
  if (!last) return;
  pthread_mutex_destroy(&state->mutex);
  free(state);
}

static environment *environment_of(napi_env env) {
  void *data = NULL;
  napi_get_instance_data(env, &data);
  return data;
}

static void handle_closed(environment *state) {
  if (--state->handles_open > 0) return;
  /* Frees nothing that Node still uses; afterwards Node goes on with its own teardown. */
  napi_remove_async_cleanup_hook(state->cleanup);
  environment_release(state);
}

static void on_wake_closed(uv_handle_t *handle) { handle_closed(handle->data); }

static void on_environment_end(napi_async_cleanup_hook_handle hook, void *data) {
  (void)hook;
  environment *state = data;
  pthread_mutex_lock(&state->mutex);
  state->ended = true;
  caisson_job *job = state->finished;
  state->finished = NULL;
  pthread_mutex_unlock(&state->mutex);
  while (job != NULL) {
    caisson_job *next = job->next;
    job->destroy(job);
    job = next;
  }
  state->env = NULL;
  caisson_handle *handle = state->handles;
  while (handle != NULL) {
    caisson_handle *next = handle->next;
    handle->close(handle);
    handle = next;
  }
  uv_close((uv_handle_t *)&state->wake, on_wake_closed);
}

bool caisson_handle_add(napi_env env, caisson_handle *handle) {
  environment *state = environment_of(env);
  if (state == NULL || state->env == NULL) return false;
  handle->owner = state;
  handle->previous = NULL;
  handle->next = state->handles;
  if (state->handles != NULL) state->handles->previous = handle;
  state->handles = handle;
  state->handles_open++;
  return true;
}

void caisson_handle_remove(caisson_handle *handle) {
  environment *state = handle->owner;
  if (handle->previous != NULL) handle->previous->next = handle->next;
  else state->handles = handle->next;
  if (handle->next != NULL) handle->next->previous = handle->previous;
  handle_closed(state);
}

void caisson_call(napi_env env, napi_ref function_ref, size_t count, napi_value *arguments) {
  environment *state = environment_of(env);
  napi_value function, receiver, error;
  if (napi_get_reference_value(env, function_ref, &function) != napi_ok || function == NULL) return;
  napi_get_global(env, &receiver);
  if (napi_make_callback(env, state->async_context, receiver, function, count, arguments, NULL) != napi_pending_exception)
    return;
  if (napi_get_and_clear_last_exception(env, &error) == napi_ok) napi_fatal_exception(env, error);
}

/* ---- Jobs -------------------------------------------------------------------------------------------------- */

void caisson_job_fail(caisson_job *job, int errnum, const char *syscall, const char *subject) {
  job->failed = errnum;
  job->syscall = syscall;
  snprintf(job->subject, sizeof job->subject, "%s", subject == NULL ? "" : subject);
}

static void *job_thread(void *data) {
  caisson_job *job = data;
  environment *state = job->owner;
  job->run(job);
  job->next = NULL;
  pthread_mutex_lock(&state->mutex);
  if (state->ended) {
    pthread_mutex_unlock(&state->mutex);
    job->destroy(job);
  } else {
    if (state->finished == NULL) state->finished_tail = &state->finished;
    *state->finished_tail = job;
    state->finished_tail = &job->next;
    uv_async_send(&state->wake); /* under the mutex: `wake` is not closed before `ended` is set */
    pthread_mutex_unlock(&state->mutex);
  }
  environment_release(state);
  return NULL;
}

static void settle(napi_env env, caisson_job *job) {
  napi_value value;
  if (job->failed != 0) {
    value = caisson_error(env, job->failed, job->syscall, job->subject);
    napi_reject_deferred(env, job->deferred, value);
    return;
  }
  value = job->result == NULL ? caisson_undefined(env) : job->result(env, job);
  bool threw = false;
  if (value == NULL || (napi_is_exception_pending(env, &threw) == napi_ok && threw)) {
    napi_get_and_clear_last_exception(env, &value);
    napi_reject_deferred(env, job->deferred, value);
    return;
  }
  napi_resolve_deferred(env, job->deferred, value);
}

static void on_jobs_finished(uv_async_t *handle) {
  environment *state = handle->data;
  pthread_mutex_lock(&state->mutex);
  caisson_job *job = state->finished;
  state->finished = NULL;
  pthread_mutex_unlock(&state->mutex);
  while (job != NULL && state->env != NULL) {
    caisson_job *next = job->next;
    napi_env env = state->env;
    napi_handle_scope scope;
    napi_callback_scope callback_scope;
    napi_value resource;
    napi_open_handle_scope(env, &scope);
    napi_get_reference_value(env, state->resource, &resource);
    /* The microtasks of whoever awaits the promise run when this scope is closed. */
    napi_open_callback_scope(env, resource, state->async_context, &callback_scope);
    settle(env, job);
    job->destroy(job);
    if (--state->jobs_running == 0) uv_unref((uv_handle_t *)&state->wake);
    napi_close_callback_scope(env, callback_scope);
    napi_close_handle_scope(env, scope);
    job = next;
  }
  for (; job != NULL;) { /* the environment ended in a callback above */
    caisson_job *next = job->next;
    job->destroy(job);
    job = next;
  }
}

/* A detached thread with all signals blocked, so that Node's handlers run where Node expects them. */
static int start_thread(caisson_job *job) {
  pthread_attr_t attributes;
  pthread_t thread;
  sigset_t all, before;
  int error = pthread_attr_init(&attributes);
  if (error != 0) return error;
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&attributes, JOB_STACK_BYTES);
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  error = pthread_create(&thread, &attributes, job_thread, job);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attributes);
  return error;
}

napi_value caisson_job_start(napi_env env, caisson_job *job) {
  environment *state = environment_of(env);
  napi_value promise;
  if (state == NULL || state->env == NULL || napi_create_promise(env, &job->deferred, &promise) != napi_ok) {
    job->destroy(job);
    return caisson_throw(env, ECANCELED, "job", NULL);
  }
  job->owner = state;
  pthread_mutex_lock(&state->mutex);
  state->references++;
  pthread_mutex_unlock(&state->mutex);
  int error = start_thread(job);
  if (error != 0) {
    environment_release(state);
    napi_reject_deferred(env, job->deferred, caisson_error(env, error, "pthread_create", NULL));
    job->destroy(job);
    return promise;
  }
  if (state->jobs_running++ == 0) uv_ref((uv_handle_t *)&state->wake);
  return promise;
}

/* ---- Entry ------------------------------------------------------------------------------------------------- */

static bool environment_make(napi_env env) {
  environment *state = calloc(1, sizeof *state);
  uv_loop_t *loop;
  napi_value name, resource;
  if (state == NULL || napi_get_uv_event_loop(env, &loop) != napi_ok) {
    free(state);
    return false;
  }
  state->env = env;
  state->references = 1;
  state->handles_open = 1;
  pthread_mutex_init(&state->mutex, NULL);
  napi_create_string_utf8(env, "caisson", NAPI_AUTO_LENGTH, &name);
  napi_create_object(env, &resource);
  napi_create_reference(env, resource, 1, &state->resource);
  napi_async_init(env, resource, name, &state->async_context);
  uv_async_init(loop, &state->wake, on_jobs_finished);
  state->wake.data = state;
  uv_unref((uv_handle_t *)&state->wake);
  napi_set_instance_data(env, state, NULL, NULL);
  napi_add_async_cleanup_hook(env, on_environment_end, state, &state->cleanup);
  return true;
}

NAPI_MODULE_INIT() {
  if (!environment_make(env)) return caisson_throw(env, ENOMEM, "napi_module_init", NULL);
  for (size_t i = 0; i < CAISSON_COUNT(capabilities); i++) capabilities[i](env, exports);
  return exports;
}
