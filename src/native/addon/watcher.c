/*
 * Readiness of any descriptor that epoll takes, as calls of a JavaScript function: one uv_poll_t per watcher.
 * The watcher never owns the descriptor; it must be closed before the descriptor is.
 */
#include "addon.h"

#include <poll.h>

/* Tells our objects from others that were wrapped (random, fixed). */
static const napi_type_tag watcher_tag = {0x6c1d3f0a92b84e57ULL, 0xa5f20c7be1934d68ULL};

typedef struct {
  caisson_handle handle;
  uv_poll_t poll;
  napi_env env;
  napi_ref callback; /* NULL once closed */
  bool closing;
  bool wrapped; /* the JavaScript object still points here */
  bool open;    /* the uv handle is not yet closed */
} watcher;

static void release(watcher *self) {
  if (!self->wrapped && !self->open) free(self);
}

static void on_closed(uv_handle_t *handle) {
  watcher *self = handle->data;
  self->open = false;
  caisson_handle_remove(&self->handle);
  release(self);
}

static void start_close(caisson_handle *handle) {
  watcher *self = (watcher *)handle;
  if (self->closing) return;
  self->closing = true;
  napi_delete_reference(self->env, self->callback);
  self->callback = NULL;
  uv_close((uv_handle_t *)&self->poll, on_closed);
}

static void on_object_gone(napi_env env, void *data, void *hint) {
  (void)env;
  (void)hint;
  watcher *self = data;
  self->wrapped = false;
  if (self->open) start_close(&self->handle);
  else release(self);
}

static void on_ready(uv_poll_t *poll, int status, int events) {
  watcher *self = poll->data;
  if (self->closing) return;
  /* After an error libuv stopped the handle; a read and a write will find out what it is. */
  if (status < 0) events = UV_READABLE | UV_WRITABLE;
  napi_handle_scope scope;
  if (napi_open_handle_scope(self->env, &scope) != napi_ok) return;
  napi_env env = self->env;
  napi_value argument = caisson_number(env, events);
  caisson_call(env, self->callback, 1, &argument); /* may close the watcher */
  napi_close_handle_scope(env, scope);
}

static watcher *unwrap(const caisson_args *args) {
  bool ours = false;
  void *data = NULL;
  if (napi_check_object_type_tag(args->env, args->value[0], &watcher_tag, &ours) != napi_ok || !ours ||
      napi_unwrap(args->env, args->value[0], &data) != napi_ok) {
    napi_throw_type_error(args->env, "ERR_INVALID_ARG_TYPE", "argument \"watcher\" must be a watcher");
    return NULL;
  }
  return data;
}

/* watcherOpen(fd, callback(events)): object. Makes the descriptor non-blocking; nothing is watched yet. */
static napi_value watcher_open(napi_env env, napi_callback_info info) {
  caisson_args args;
  int fd;
  napi_valuetype type;
  uv_loop_t *loop;
  if (!caisson_args_get(env, info, &args) || !caisson_arg_fd(&args, 0, "fd", &fd)) return NULL;
  if (napi_typeof(env, args.value[1], &type) != napi_ok || type != napi_function) {
    napi_throw_type_error(env, "ERR_INVALID_ARG_TYPE", "argument \"callback\" must be a function");
    return NULL;
  }
  if (napi_get_uv_event_loop(env, &loop) != napi_ok) return NULL;
  watcher *self = calloc(1, sizeof *self);
  if (self == NULL) return caisson_throw(env, ENOMEM, "malloc", NULL);
  self->env = env;
  self->handle.close = start_close;
  if (!caisson_handle_add(env, &self->handle)) {
    free(self);
    return caisson_throw(env, ECANCELED, "uv_poll_init", NULL);
  }
  /* EEXIST: the loop watches this descriptor already. EPERM: epoll does not take this kind (a regular file). */
  int error = uv_poll_init(loop, &self->poll, fd);
  if (error != 0) {
    caisson_handle_remove(&self->handle);
    free(self);
    return caisson_throw(env, -error, "uv_poll_init", NULL);
  }
  self->open = true;
  self->poll.data = self;
  napi_create_reference(env, args.value[1], 1, &self->callback);
  napi_value object;
  napi_create_object(env, &object);
  self->wrapped = true;
  if (napi_wrap(env, object, self, on_object_gone, NULL, NULL) != napi_ok) {
    self->wrapped = false;
    start_close(&self->handle);
    return NULL;
  }
  napi_type_tag_object(env, object, &watcher_tag);
  return object;
}

/* watcherSet(watcher, events): watches for exactly these events; 0 stops. */
static napi_value watcher_set(napi_env env, napi_callback_info info) {
  caisson_args args;
  watcher *self;
  int events;
  if (!caisson_args_get(env, info, &args) || (self = unwrap(&args)) == NULL ||
      !caisson_arg_int(&args, 1, "events", &events))
    return NULL;
  if (self->closing) return caisson_throw(env, EBADF, "uv_poll_start", NULL);
  int error = events == 0 ? uv_poll_stop(&self->poll) : uv_poll_start(&self->poll, events, on_ready);
  if (error != 0) return caisson_throw(env, -error, "uv_poll_start", NULL);
  return caisson_undefined(env);
}

/* watcherBroken(watcher): whether the descriptor reports an error and nothing that a read or a write could get at. */
static napi_value watcher_broken(napi_env env, napi_callback_info info) {
  caisson_args args;
  watcher *self;
  uv_os_fd_t fd;
  if (!caisson_args_get(env, info, &args) || (self = unwrap(&args)) == NULL) return NULL;
  bool broken = false;
  if (!self->closing && uv_fileno((uv_handle_t *)&self->poll, &fd) == 0) {
    struct pollfd state = {.fd = fd, .events = POLLIN | POLLOUT};
    broken = poll(&state, 1, 0) == 1 && (state.revents & POLLERR) != 0 && (state.revents & (POLLIN | POLLOUT)) == 0;
  }
  napi_value answer = NULL;
  napi_get_boolean(env, broken, &answer);
  return answer;
}

/* watcherRef(watcher, on): whether the watcher keeps the process alive while it watches. */
static napi_value watcher_ref(napi_env env, napi_callback_info info) {
  caisson_args args;
  watcher *self;
  bool on;
  if (!caisson_args_get(env, info, &args) || (self = unwrap(&args)) == NULL || !caisson_arg_bool(&args, 1, "on", &on))
    return NULL;
  if (self->closing) return caisson_undefined(env);
  if (on) uv_ref((uv_handle_t *)&self->poll);
  else uv_unref((uv_handle_t *)&self->poll);
  return caisson_undefined(env);
}

/* watcherClose(watcher): idempotent. The descriptor may be closed as soon as this returned. */
static napi_value watcher_close(napi_env env, napi_callback_info info) {
  caisson_args args;
  watcher *self;
  if (!caisson_args_get(env, info, &args) || (self = unwrap(&args)) == NULL) return NULL;
  start_close(&self->handle);
  return caisson_undefined(env);
}

void caisson_init_watcher(napi_env env, napi_value exports) {
  static const caisson_function functions[] = {
      {"watcherOpen", watcher_open},
      {"watcherSet", watcher_set},
      {"watcherBroken", watcher_broken},
      {"watcherRef", watcher_ref},
      {"watcherClose", watcher_close},
  };
  caisson_define(env, exports, functions, CAISSON_COUNT(functions));
  caisson_define_constant(env, exports, "READABLE", UV_READABLE);
  caisson_define_constant(env, exports, "WRITABLE", UV_WRITABLE);
}
