/* Processes: fork, clone, exec, wait, signals, and the process's own attributes. */
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "runtime.h"
#include "sys.h"

void rename_process(const char *name) {
    prctl(PR_SET_NAME, name);
    /* The command line is the memory of argv, which is contiguous (fs/exec.c). */
    char *first = runtime_argv[0], *last = runtime_argv[runtime_argc - 1];
    size_t room = (size_t)(last + strlen(last) + 1 - first);
    memset(first, 0, room);
    snprintf(first, room, "%s", name);
}

SYS_IMPL(js_argv) {
    SYS_UNUSED;
    JSValue list = JS_NewArray(ctx);
    for (int i = 0; i < runtime_argc; i++)
        JS_SetPropertyUint32(ctx, list, (uint32_t)i, JS_NewString(ctx, runtime_argv[i]));
    return list;
}

SYS_IMPL(js_getenv) {
    SYS_UNUSED;
    SYS_ARG_STR(name, 0);
    const char *value = getenv(name.s);
    return value ? JS_NewString(ctx, value) : JS_UNDEFINED;
}

SYS_IMPL(js_fork) {
    SYS_UNUSED;
    return sys_result(ctx, "fork", fork());
}

/*
 * clone3 behaving as fork: the child gets a copy of the address space and returns 0 here. `flags` are CLONE_* bits
 * (namespaces, CLONE_PARENT); `cgroup_fd` >= 0 starts the child in that cgroup (CLONE_INTO_CGROUP). The process has one
 * thread, so no lock of libc can be held in the child.
 */
SYS_IMPL(js_clone) {
    SYS_UNUSED;
    SYS_ARG_I64(flags, 0);
    SYS_ARG_I32(cgroup_fd, 1);
    struct clone_args args = {.flags = (uint64_t)flags, .exit_signal = SIGCHLD};
    if (args.flags & CLONE_PARENT) args.exit_signal = 0;
    if (cgroup_fd >= 0) {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = (uint64_t)cgroup_fd;
    }
    return sys_result(ctx, "clone3", syscall(SYS_clone3, &args, sizeof args));
}

SYS_IMPL(js_execve) {
    SYS_UNUSED;
    SYS_ARG_STR(path, 0);
    SYS_STRV struct sys_strv arguments = sys_strv(ctx, argv[1]);
    if (!arguments.v) return JS_EXCEPTION;
    SYS_STRV struct sys_strv environment = sys_strv(ctx, argv[2]);
    if (!environment.v) return JS_EXCEPTION;
    execve(path.s, arguments.v, environment.v);
    return sys_throw(ctx, "execve");
}

SYS_IMPL(js_exit) {
    SYS_UNUSED;
    SYS_ARG_I32(status, 0);
    _exit(status);
}

/* [pid, raw status]; pid 0 when nothing has changed (WNOHANG) and -1 when there is no such child. */
SYS_IMPL(js_waitpid) {
    SYS_UNUSED;
    SYS_ARG_I32(pid, 0);
    SYS_ARG_I32(options, 1);
    int status = 0;
    int64_t got = SYS_RETRY(waitpid(pid, &status, options));
    if (got < 0 && errno != ECHILD) return sys_throw(ctx, "waitpid");
    JSValue result = JS_NewArray(ctx);
    JS_SetPropertyUint32(ctx, result, 0, JS_NewInt64(ctx, got));
    JS_SetPropertyUint32(ctx, result, 1, JS_NewInt32(ctx, status));
    return result;
}

SYS_IMPL(js_kill) {
    SYS_UNUSED;
    SYS_ARG_I32(pid, 0);
    SYS_ARG_I32(number, 1);
    return sys_done(ctx, "kill", kill(pid, number));
}

SYS_IMPL(js_pidfd_open) {
    SYS_UNUSED;
    SYS_ARG_I32(pid, 0);
    return sys_result(ctx, "pidfd_open", syscall(SYS_pidfd_open, pid, 0));
}

SYS_IMPL(js_pidfd_send_signal) {
    SYS_UNUSED;
    SYS_ARG_I32(fd, 0);
    SYS_ARG_I32(number, 1);
    return sys_done(ctx, "pidfd_send_signal", syscall(SYS_pidfd_send_signal, fd, number, NULL, 0));
}

SYS_IMPL(js_getpid) {
    SYS_UNUSED;
    return JS_NewInt32(ctx, getpid());
}

SYS_IMPL(js_setsid) {
    SYS_UNUSED;
    return sys_result(ctx, "setsid", setsid());
}

SYS_IMPL(js_prctl) {
    SYS_UNUSED;
    SYS_ARG_I32(option, 0);
    SYS_ARG_I64(a, 1);
    SYS_ARG_I64(b, 2);
    SYS_ARG_I64(c, 3);
    SYS_ARG_I64(d, 4);
    return sys_result(ctx, "prctl", prctl(option, a, b, c, d));
}

/* Marks every descriptor from `first` on close-on-exec, so that an exec leaks nothing of the agent's. */
SYS_IMPL(js_cloexec_from) {
    SYS_UNUSED;
    SYS_ARG_I32(first, 0);
    return sys_done(ctx, "close_range", syscall(SYS_close_range, first, ~0u, CLOSE_RANGE_CLOEXEC));
}

static const JSCFunctionListEntry process_functions[] = {
    SYS_FN("argv", 0, js_argv),
    SYS_FN("getenv", 1, js_getenv),
    SYS_FN("fork", 0, js_fork),
    SYS_FN("clone", 2, js_clone),
    SYS_FN("execve", 3, js_execve),
    SYS_FN("exit", 1, js_exit),
    SYS_FN("waitpid", 2, js_waitpid),
    SYS_FN("kill", 2, js_kill),
    SYS_FN("pidfdOpen", 1, js_pidfd_open),
    SYS_FN("pidfdSendSignal", 2, js_pidfd_send_signal),
    SYS_FN("getpid", 0, js_getpid),
    SYS_FN("setsid", 0, js_setsid),
    SYS_FN("prctl", 5, js_prctl),
    SYS_FN("cloexecFrom", 1, js_cloexec_from),
};
SYS_TABLE(process_functions)
