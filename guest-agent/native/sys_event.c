/* epoll, signalfd, eventfd, inotify. */
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/signalfd.h>

#include "become.h"
#include "sys.h"

SYS_IMPL(js_epoll_create) {
    SYS_UNUSED;
    return sys_result(ctx, "epoll_create1", epoll_create1(EPOLL_CLOEXEC));
}

SYS_IMPL(js_epoll_ctl) {
    SYS_UNUSED;
    SYS_ARG_I32(epfd, 0);
    SYS_ARG_I32(operation, 1);
    SYS_ARG_I32(fd, 2);
    uint32_t events, token;
    if (sys_u32(ctx, argv[3], &events) || sys_u32(ctx, argv[4], &token)) return JS_EXCEPTION;
    struct epoll_event event = {.events = events, .data.u64 = token};
    return sys_done(ctx, "epoll_ctl", epoll_ctl(epfd, operation, fd, &event));
}

#define MAX_EVENTS 64

/* Fills a Uint32Array with (events, token) pairs; returns their number, 0 at the timeout or after a signal. */
SYS_IMPL(js_epoll_wait) {
    SYS_UNUSED;
    struct sys_buf buf;
    struct epoll_event events[MAX_EVENTS];
    SYS_ARG_I32(epfd, 0);
    SYS_ARG_I32(timeout, 2);
    if (sys_buf(ctx, argv[1], &buf)) return JS_EXCEPTION;
    int capacity = (int)(buf.length / 8);
    if (capacity > MAX_EVENTS) capacity = MAX_EVENTS;
    int count = epoll_wait(epfd, events, capacity, timeout);
    if (count < 0) return errno == EINTR ? JS_NewInt32(ctx, 0) : sys_throw(ctx, "epoll_wait");
    /* The wait may have taken long, but nothing but this thread can touch the buffer. */
    for (int i = 0; i < count; i++) {
        uint32_t pair[2] = {events[i].events, (uint32_t)events[i].data.u64};
        memcpy(buf.data + 8 * i, pair, sizeof pair);
    }
    return JS_NewInt32(ctx, count);
}

static int get_signals(JSContext *ctx, JSValueConst list, sigset_t *set) {
    sigemptyset(set);
    for (uint32_t i = 0;; i++) {
        int number;
        JSValue item = JS_GetPropertyUint32(ctx, list, i);
        if (JS_IsException(item)) return -1;
        if (JS_IsUndefined(item)) return 0;
        int failed = sys_i32(ctx, item, &number);
        JS_FreeValue(ctx, item);
        if (failed) return -1;
        if (sigaddset(set, number) < 0) {
            sys_throw(ctx, "sigaddset");
            return -1;
        }
    }
}

/* Blocks the signals and returns a non-blocking descriptor that reports them. */
SYS_IMPL(js_signalfd) {
    SYS_UNUSED;
    sigset_t set;
    if (get_signals(ctx, argv[0], &set)) return JS_EXCEPTION;
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0) return sys_throw(ctx, "sigprocmask");
    return sys_result(ctx, "signalfd", signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
}

/* The next signal of a signalfd, or -1 when none is pending. */
SYS_IMPL(js_read_signal) {
    SYS_UNUSED;
    struct signalfd_siginfo info;
    SYS_ARG_I32(fd, 0);
    int64_t got = SYS_RETRY(read(fd, &info, sizeof info));
    if (got < 0) return errno == EAGAIN ? JS_NewInt32(ctx, -1) : sys_throw(ctx, "read");
    return JS_NewUint32(ctx, info.ssi_signo);
}

/* For a forked child before it execs: default handlers, nothing blocked. Once is enough, for its own children too. */
int reset_signals(void) {
    static bool done;
    sigset_t none;
    if (done) return 0;
    done = true;
    for (int number = 1; number < NSIG; number++) signal(number, SIG_DFL);
    sigemptyset(&none);
    return sigprocmask(SIG_SETMASK, &none, NULL);
}

SYS_IMPL(js_reset_signals) {
    SYS_UNUSED;
    return sys_done(ctx, "sigprocmask", reset_signals());
}

SYS_IMPL(js_eventfd) {
    SYS_UNUSED;
    SYS_ARG_I32(flags, 0);
    return sys_result(ctx, "eventfd", eventfd(0, flags | EFD_CLOEXEC));
}

SYS_IMPL(js_inotify_init) {
    SYS_UNUSED;
    return sys_result(ctx, "inotify_init1", inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
}

SYS_IMPL(js_inotify_add_watch) {
    SYS_UNUSED;
    SYS_ARG_I32(fd, 0);
    SYS_ARG_STR(path, 1);
    SYS_ARG_I64(mask, 2);
    return sys_result(ctx, "inotify_add_watch", inotify_add_watch(fd, path.s, (uint32_t)mask));
}

SYS_IMPL(js_inotify_rm_watch) {
    SYS_UNUSED;
    SYS_ARG_I32(fd, 0);
    SYS_ARG_I32(watch, 1);
    return sys_done(ctx, "inotify_rm_watch", inotify_rm_watch(fd, watch));
}

static const JSCFunctionListEntry event_functions[] = {
    SYS_FN("epollCreate", 0, js_epoll_create),
    SYS_FN("epollCtl", 5, js_epoll_ctl),
    SYS_FN("epollWait", 3, js_epoll_wait),
    SYS_FN("signalfd", 1, js_signalfd),
    SYS_FN("readSignal", 1, js_read_signal),
    SYS_FN("resetSignals", 0, js_reset_signals),
    SYS_FN("eventfd", 1, js_eventfd),
    SYS_FN("inotifyInit", 0, js_inotify_init),
    SYS_FN("inotifyAddWatch", 3, js_inotify_add_watch),
    SYS_FN("inotifyRmWatch", 2, js_inotify_rm_watch),
};
SYS_TABLE(event_functions)
