/*
 * What containers need of the kernel besides file systems: namespaces, descriptors, the end of a child's way to its program
 * (become.c), and the holder of a shared pid namespace. Which of it applies is decided in src/container/.
 */
#include "become.h"
#include "runtime.h"

#include <linux/capability.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* unshare(flags): CLONE_NEW* */
SYS_IMPL(js_unshare) {
    SYS_UNUSED;
    SYS_ARG_I32(flags, 0);
    return sys_done(ctx, "unshare", unshare(flags));
}

/* setns(fd, flags): a namespace, or a pidfd with the CLONE_NEW* bits of the namespaces to take from it */
SYS_IMPL(js_setns) {
    SYS_UNUSED;
    SYS_ARG_I32(fd, 0);
    SYS_ARG_I32(flags, 1);
    return sys_done(ctx, "setns", setns(fd, flags));
}

/* pivotRoot(newRoot, putOld) */
SYS_IMPL(js_pivot_root) {
    SYS_UNUSED;
    SYS_ARG_STR(new_root, 0);
    SYS_ARG_STR(put_old, 1);
    return sys_done(ctx, "pivot_root", syscall(SYS_pivot_root, new_root.s, put_old.s));
}

/* closeRange(first, last): closes the open descriptors of the range, both ends included */
SYS_IMPL(js_close_range) {
    SYS_UNUSED;
    SYS_ARG_I64(first, 0);
    SYS_ARG_I64(last, 1);
    return sys_done(ctx, "close_range", syscall(SYS_close_range, (unsigned)first, (unsigned)last, 0));
}

/* capget(): [effective, permitted, inheritable] as BigInts */
SYS_IMPL(js_capget) {
    SYS_UNUSED;
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    if (syscall(SYS_capget, &header, data) < 0) return sys_throw(ctx, "capget");
    JSValue sets = JS_NewArray(ctx);
    JS_SetPropertyUint32(ctx, sets, 0,
                         JS_NewBigUint64(ctx, data[0].effective | (uint64_t)data[1].effective << 32));
    JS_SetPropertyUint32(ctx, sets, 1,
                         JS_NewBigUint64(ctx, data[0].permitted | (uint64_t)data[1].permitted << 32));
    JS_SetPropertyUint32(ctx, sets, 2,
                         JS_NewBigUint64(ctx, data[0].inheritable | (uint64_t)data[1].inheritable << 32));
    return sets;
}

int set_oom_score(int64_t score, const char **call) {
    char text[24];
    int length = snprintf(text, sizeof text, "%lld", (long long)score);
    *call = "open";
    int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    *call = "write";
    int outcome = write(fd, text, (size_t)length) < 0 ? -1 : 0, error = errno;
    close(fd);
    errno = error;
    return outcome;
}

/* setOomScore(score) */
SYS_IMPL(js_set_oom_score) {
    SYS_UNUSED;
    SYS_ARG_I64(score, 0);
    const char *call;
    int outcome = set_oom_score(score, &call);
    return sys_done(ctx, call, outcome);
}

/* becomeProcess(plan, stdin, stdout, stderr, tools): returns only when it fails, with the JSON of stop_text() */
SYS_IMPL(js_become_process) {
    SYS_UNUSED;
    struct ends ends;
    for (int i = 0; i < 3; i++)
        if (sys_i32(ctx, argv[1 + i], &ends.stdio[i])) return JS_EXCEPTION;
    if (sys_i32(ctx, argv[4], &ends.tools)) return JS_EXCEPTION;
    struct plan_bytes bytes = {0};
    struct process_plan plan;
    if (process_plan_encode(ctx, argv[0], &bytes)) return JS_EXCEPTION;
    if (process_plan_open(&bytes, &plan) < 0) return sys_throw(ctx, "becomeProcess");
    struct stop stop;
    become(&plan, &ends, -1, &stop);
    char text[STOP_TEXT];
    stop_text(&stop, text, sizeof text);
    return JS_NewString(ctx, text);
}

/*
 * holdPidNamespace(name): the first process of a pid namespace that several containers share. Adopts and reaps the
 * orphans of all of them and ignores every other signal; ends with its parent. Never returns.
 */
SYS_IMPL(js_hold_pid_namespace) {
    SYS_UNUSED;
    SYS_ARG_STR(name, 0);
    rename_process(name.s);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    sigset_t all, child;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    for (;;) {
        while (waitpid(-1, NULL, WNOHANG) > 0) continue;
        sigwaitinfo(&child, NULL);
    }
}

static const JSCFunctionListEntry container_functions[] = {
    SYS_FN("unshare", 1, js_unshare),
    SYS_FN("setns", 2, js_setns),
    SYS_FN("pivotRoot", 2, js_pivot_root),
    SYS_FN("closeRange", 2, js_close_range),
    SYS_FN("capget", 0, js_capget),
    SYS_FN("setOomScore", 1, js_set_oom_score),
    SYS_FN("becomeProcess", 5, js_become_process),
    SYS_FN("holdPidNamespace", 1, js_hold_pid_namespace),
};
SYS_TABLE(container_functions)
