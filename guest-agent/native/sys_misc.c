/* Clocks, host name, power, terminals, random bytes, text. */
#include <linux/reboot.h>
#include <pty.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <termios.h>
#include <time.h>

#include "sys.h"

/* Microseconds of a clock (CLOCK_*), exact up to 2^53. */
SYS_IMPL(js_clock_us) {
    SYS_UNUSED;
    struct timespec time;
    SYS_ARG_I32(clock, 0);
    if (clock_gettime(clock, &time) < 0) return sys_throw(ctx, "clock_gettime");
    return JS_NewInt64(ctx, time.tv_sec * INT64_C(1000000) + time.tv_nsec / 1000);
}

/* Nanoseconds since the epoch as a BigInt. */
SYS_IMPL(js_realtime_ns) {
    SYS_UNUSED;
    struct timespec time;
    if (clock_gettime(CLOCK_REALTIME, &time) < 0) return sys_throw(ctx, "clock_gettime");
    return JS_NewBigInt64(ctx, time.tv_sec * INT64_C(1000000000) + time.tv_nsec);
}

SYS_IMPL(js_set_realtime_ns) {
    SYS_UNUSED;
    SYS_ARG_I64(nanoseconds, 0);
    struct timespec time = {nanoseconds / 1000000000, nanoseconds % 1000000000};
    return sys_done(ctx, "clock_settime", clock_settime(CLOCK_REALTIME, &time));
}

SYS_IMPL(js_sethostname) {
    SYS_UNUSED;
    SYS_ARG_STR(name, 0);
    return sys_done(ctx, "sethostname", sethostname(name.s, strlen(name.s)));
}

SYS_IMPL(js_setdomainname) {
    SYS_UNUSED;
    SYS_ARG_STR(name, 0);
    return sys_done(ctx, "setdomainname", setdomainname(name.s, strlen(name.s)));
}

SYS_IMPL(js_kernel_release) {
    SYS_UNUSED;
    struct utsname names;
    if (uname(&names) < 0) return sys_throw(ctx, "uname");
    return JS_NewString(ctx, names.release);
}

SYS_IMPL(js_sync) {
    SYS_UNUSED;
    sync();
    return JS_UNDEFINED;
}

SYS_IMPL(js_reboot) {
    SYS_UNUSED;
    uint32_t command;
    if (sys_u32(ctx, argv[0], &command)) return JS_EXCEPTION;
    return sys_done(ctx, "reboot", reboot((int)command));
}

/* ioctl with an integer or no argument. */
SYS_IMPL(js_ioctl) {
    SYS_UNUSED;
    SYS_ARG_I32(fd, 0);
    uint32_t request;
    if (sys_u32(ctx, argv[1], &request)) return JS_EXCEPTION;
    SYS_ARG_I64(argument, 2);
    return sys_result(ctx, "ioctl", SYS_RETRY(ioctl(fd, request, argument)));
}

/* ioctl with a buffer that the kernel reads or fills; the caller gives it the size that the request wants. */
SYS_IMPL(js_ioctl_buffer) {
    SYS_UNUSED;
    struct sys_buf buf;
    SYS_ARG_I32(fd, 0);
    uint32_t request;
    if (sys_u32(ctx, argv[1], &request) || sys_buf(ctx, argv[2], &buf)) return JS_EXCEPTION;
    size_t wanted = _IOC_SIZE(request);
    if (buf.length < wanted) return sys_throw_errno(ctx, "ioctl", EINVAL);
    return sys_result(ctx, "ioctl", SYS_RETRY(ioctl(fd, request, buf.data)));
}

SYS_IMPL(js_set_window_size) {
    SYS_UNUSED;
    SYS_ARG_I32(fd, 0);
    SYS_ARG_I32(columns, 1);
    SYS_ARG_I32(rows, 2);
    struct winsize size = {.ws_row = (unsigned short)rows, .ws_col = (unsigned short)columns};
    return sys_done(ctx, "ioctl TIOCSWINSZ", ioctl(fd, TIOCSWINSZ, &size));
}

SYS_IMPL(js_random) {
    SYS_UNUSED;
    struct sys_buf buf;
    if (sys_buf(ctx, argv[0], &buf)) return JS_EXCEPTION;
    return sys_result(ctx, "getrandom", SYS_RETRY(getrandom(buf.data, buf.length, GRND_NONBLOCK)));
}

SYS_IMPL(js_encode_utf8) {
    SYS_UNUSED;
    size_t length;
    const char *text = JS_ToCStringLen(ctx, &length, argv[0]);
    if (!text) return JS_EXCEPTION;
    JSValue buffer = JS_NewArrayBufferCopy(ctx, (const uint8_t *)text, length);
    JS_FreeCString(ctx, text);
    return buffer;
}

/* Malformed sequences become U+FFFD. */
SYS_IMPL(js_decode_utf8) {
    SYS_UNUSED;
    struct sys_buf buf;
    if (sys_buf_range(ctx, argv[0], argv[1], argv[2], &buf)) return JS_EXCEPTION;
    return JS_NewStringLen(ctx, (const char *)buf.data, buf.length);
}

/* True for well-formed UTF-8 (Unicode 15, table 3-7: no surrogates, no overlong forms). */
SYS_IMPL(js_valid_utf8) {
    SYS_UNUSED;
    struct sys_buf buf;
    if (sys_buf(ctx, argv[0], &buf)) return JS_EXCEPTION;
    const uint8_t *at = buf.data, *end = buf.data + buf.length;
    while (at < end) {
        uint8_t lead = *at++;
        if (lead < 0x80) continue;
        int more = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : 1;
        if (lead < 0xc2 || lead > 0xf4 || end - at < more) return JS_FALSE;
        uint8_t low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
        uint8_t high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
        if (*at < low || *at > high) return JS_FALSE;
        for (at++; --more > 0; at++)
            if ((*at & 0xc0) != 0x80) return JS_FALSE;
    }
    return JS_TRUE;
}

static const JSCFunctionListEntry misc_functions[] = {
    SYS_FN("clockUs", 1, js_clock_us),
    SYS_FN("realtimeNs", 0, js_realtime_ns),
    SYS_FN("setRealtimeNs", 1, js_set_realtime_ns),
    SYS_FN("sethostname", 1, js_sethostname),
    SYS_FN("setdomainname", 1, js_setdomainname),
    SYS_FN("kernelRelease", 0, js_kernel_release),
    SYS_FN("sync", 0, js_sync),
    SYS_FN("reboot", 1, js_reboot),
    SYS_FN("ioctl", 3, js_ioctl),
    SYS_FN("ioctlBuffer", 3, js_ioctl_buffer),
    SYS_FN("setWindowSize", 3, js_set_window_size),
    SYS_FN("random", 1, js_random),
    SYS_FN("encodeUtf8", 1, js_encode_utf8),
    SYS_FN("decodeUtf8", 3, js_decode_utf8),
    SYS_FN("validUtf8", 1, js_valid_utf8),
};
SYS_TABLE(misc_functions)
