/* Processes: pidfds, and what prctl(2) and setsid(2) do to the shim itself. */
#include "addon.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#if defined(__x86_64__)
#include <x86intrin.h>
#endif

/* Since Linux 5.3 and 5.1 (include/uapi/asm-generic/unistd.h); the C library names them only since 2.31 or later. */
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_pidfd_send_signal
#define SYS_pidfd_send_signal 424
#endif

/* pidfdOpen(pid): a descriptor (CLOEXEC) that becomes readable when the process ends. ESRCH when there is none. */
static napi_value pidfd_open_call(napi_env env, napi_callback_info info) {
  caisson_args args;
  int pid;
  if (!caisson_args_get(env, info, &args) || !caisson_arg_int(&args, 0, "pid", &pid)) return NULL;
  long fd = syscall(SYS_pidfd_open, pid, 0);
  return fd < 0 ? caisson_throw(env, errno, "pidfd_open", NULL) : caisson_number(env, fd);
}

/* pidfdSignal(pidfd, signal): false when the process is gone. Signal 0 only asks. */
static napi_value pidfd_signal_call(napi_env env, napi_callback_info info) {
  caisson_args args;
  int fd, signal;
  if (!caisson_args_get(env, info, &args) || !caisson_arg_fd(&args, 0, "pidfd", &fd) ||
      !caisson_arg_int(&args, 1, "signal", &signal))
    return NULL;
  if (syscall(SYS_pidfd_send_signal, fd, signal, NULL, 0) == 0) return caisson_bool(env, true);
  return errno == ESRCH ? caisson_bool(env, false) : caisson_throw(env, errno, "pidfd_send_signal", NULL);
}

/* setChildSubreaper(on): orphaned descendants become our children. */
static napi_value set_child_subreaper(napi_env env, napi_callback_info info) {
  caisson_args args;
  bool on;
  if (!caisson_args_get(env, info, &args) || !caisson_arg_bool(&args, 0, "on", &on)) return NULL;
  if (prctl(PR_SET_CHILD_SUBREAPER, on ? 1UL : 0UL, 0, 0, 0) != 0)
    return caisson_throw(env, errno, "prctl(PR_SET_CHILD_SUBREAPER)", NULL);
  return caisson_undefined(env);
}

/* setProcessName(name): /proc/<pid>/comm of the calling thread, cut to 15 bytes. */
static napi_value set_process_name(napi_env env, napi_callback_info info) {
  caisson_args args;
  CAISSON_AUTO_FREE char *name = NULL;
  if (!caisson_args_get(env, info, &args) || !caisson_arg_string(&args, 0, "name", &name)) return NULL;
  if (prctl(PR_SET_NAME, name, 0, 0, 0) != 0) return caisson_throw(env, errno, "prctl(PR_SET_NAME)", NULL);
  return caisson_undefined(env);
}

/* setsid(): number of the new session. EPERM when we lead a process group already. */
static napi_value setsid_call(napi_env env, napi_callback_info info) {
  (void)info;
  pid_t session = setsid();
  return session < 0 ? caisson_throw(env, errno, "setsid", NULL) : caisson_number(env, session);
}

/*
 * reap(pid): {code} or {signal} of that one child, null while it runs. For adopted children only: those that Node
 * spawned are reaped by libuv. ECHILD when it is not ours.
 */
static napi_value reap(napi_env env, napi_callback_info info) {
  caisson_args args;
  int pid, status = 0;
  if (!caisson_args_get(env, info, &args) || !caisson_arg_int(&args, 0, "pid", &pid)) return NULL;
  if (pid <= 0) return caisson_throw(env, EINVAL, "waitpid", NULL); /* would take away the children of others */
  long reaped = CAISSON_RETRY(waitpid(pid, &status, WNOHANG));
  if (reaped < 0) return caisson_throw(env, errno, "waitpid", NULL);
  if (reaped == 0) return caisson_null(env);
  napi_value result;
  napi_create_object(env, &result);
  if (WIFEXITED(status)) caisson_set(env, result, "code", caisson_number(env, WEXITSTATUS(status)));
  else caisson_set(env, result, "signal", caisson_number(env, WTERMSIG(status)));
  return result;
}

/* tscSample(): {ticks, nanoseconds} of the time stamp counter and CLOCK_MONOTONIC_RAW; null without a counter. */
static napi_value tsc_sample(napi_env env, napi_callback_info info) {
  (void)info;
#if defined(__x86_64__)
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC_RAW, &now);
  unsigned long long ticks = __rdtsc();
  napi_value result;
  napi_create_object(env, &result);
  caisson_set(env, result, "ticks", caisson_number(env, (int64_t)ticks));
  caisson_set(env, result, "nanoseconds", caisson_number(env, now.tv_sec * 1000000000LL + now.tv_nsec));
  return result;
#else
  return caisson_null(env);
#endif
}

void caisson_init_process(napi_env env, napi_value exports) {
  static const caisson_function functions[] = {
      {"pidfdOpen", pidfd_open_call},
      {"pidfdSignal", pidfd_signal_call},
      {"setChildSubreaper", set_child_subreaper},
      {"setProcessName", set_process_name},
      {"setsid", setsid_call},
      {"reap", reap},
      {"tscSample", tsc_sample},
  };
  caisson_define(env, exports, functions, CAISSON_COUNT(functions));
}
