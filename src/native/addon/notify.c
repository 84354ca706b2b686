/* What happens to a file, and what is left in a pipe. */
#include "addon.h"

#include <sys/inotify.h>
#include <sys/ioctl.h>

/* inotifyOpen(path, mask): a descriptor that becomes readable when one of the events IN_* of `mask` happened. */
static napi_value inotify_open(napi_env env, napi_callback_info info) {
  caisson_args args;
  CAISSON_AUTO_FREE char *path = NULL;
  uint32_t mask;
  if (!caisson_args_get(env, info, &args) || !caisson_arg_string(&args, 0, "path", &path) ||
      !caisson_arg_u32(&args, 1, "mask", &mask))
    return NULL;
  CAISSON_AUTO_CLOSE int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
  if (fd < 0) return caisson_throw(env, errno, "inotify_init1", NULL);
  if (inotify_add_watch(fd, path, mask) < 0) return caisson_throw(env, errno, "inotify_add_watch", path);
  napi_value result = caisson_number(env, fd);
  fd = -1;
  return result;
}

/* unreadBytes(fd): how many bytes a pipe or socket holds for its reader (FIONREAD). */
static napi_value unread_bytes(napi_env env, napi_callback_info info) {
  caisson_args args;
  int fd, count;
  if (!caisson_args_get(env, info, &args) || !caisson_arg_fd(&args, 0, "fd", &fd)) return NULL;
  if (ioctl(fd, FIONREAD, &count) != 0) return caisson_throw(env, errno, "ioctl(FIONREAD)", NULL);
  return caisson_number(env, count);
}

void caisson_init_notify(napi_env env, napi_value exports) {
  const caisson_function functions[] = {{"inotifyOpen", inotify_open}, {"unreadBytes", unread_bytes}};
  caisson_define(env, exports, functions, CAISSON_COUNT(functions));
}
