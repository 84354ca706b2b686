/* Sockets: vsock, unix, netlink; passing descriptors over unix sockets. */
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
/* after <sys/socket.h>: they need sa_family_t */
#include <linux/netlink.h>
#include <linux/vm_sockets.h>

#include "passing.h"
#include "sys.h"

SYS_IMPL(js_socket) {
    SYS_UNUSED;
    SYS_ARG_I32(family, 0);
    SYS_ARG_I32(type, 1);
    SYS_ARG_I32(protocol, 2);
    return sys_result(ctx, "socket", socket(family, type | SOCK_CLOEXEC, protocol));
}

SYS_IMPL(js_socketpair) {
    SYS_UNUSED;
    SYS_ARG_I32(family, 0);
    SYS_ARG_I32(type, 1);
    int fds[2];
    if (socketpair(family, type | SOCK_CLOEXEC, 0, fds) < 0) return sys_throw(ctx, "socketpair");
    JSValue pair = JS_NewArray(ctx);
    JS_SetPropertyUint32(ctx, pair, 0, JS_NewInt32(ctx, fds[0]));
    JS_SetPropertyUint32(ctx, pair, 1, JS_NewInt32(ctx, fds[1]));
    return pair;
}

struct address {
    union {
        struct sockaddr any;
        struct sockaddr_un un;
        struct sockaddr_vm vm;
        struct sockaddr_storage storage;
    } of;
    socklen_t length;
};

/* A string is a unix path, a pair of numbers (cid, port) is a vsock address, bytes are a struct sockaddr_*. */
static int get_address(JSContext *ctx, JSValueConst first, JSValueConst second, struct address *out) {
    memset(out, 0, sizeof *out);
    if (JS_IsString(first)) {
        SYS_STR struct sys_str path = sys_str(ctx, first);
        if (path.failed) return -1;
        size_t length = strlen(path.s);
        if (length >= sizeof out->of.un.sun_path) {
            sys_throw_errno(ctx, "unix address", ENAMETOOLONG);
            return -1;
        }
        out->of.un.sun_family = AF_UNIX;
        memcpy(out->of.un.sun_path, path.s, length + 1);
        out->length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length + 1);
        return 0;
    }
    if (JS_IsObject(first)) {
        struct sys_buf bytes;
        if (sys_buf(ctx, first, &bytes)) return -1;
        if (bytes.length > sizeof out->of) {
            sys_throw_errno(ctx, "socket address", EINVAL);
            return -1;
        }
        memcpy(&out->of, bytes.data, bytes.length);
        out->length = (socklen_t)bytes.length;
        return 0;
    }
    uint32_t cid, port;
    if (sys_u32(ctx, first, &cid) || sys_u32(ctx, second, &port)) return -1;
    out->of.vm.svm_family = AF_VSOCK;
    out->of.vm.svm_cid = cid;
    out->of.vm.svm_port = port;
    out->length = sizeof out->of.vm;
    return 0;
}

SYS_IMPL(js_bind) {
    SYS_UNUSED;
    struct address address;
    SYS_ARG_I32(fd, 0);
    if (get_address(ctx, argv[1], argv[2], &address)) return JS_EXCEPTION;
    return sys_done(ctx, "bind", bind(fd, &address.of.any, address.length));
}

/* Binds a netlink socket to a port id of the kernel's choice and joins the multicast groups of the mask. */
SYS_IMPL(js_bind_netlink) {
    SYS_UNUSED;
    SYS_ARG_I32(fd, 0);
    struct sockaddr_nl address = {.nl_family = AF_NETLINK};
    if (sys_u32(ctx, argv[1], &address.nl_groups)) return JS_EXCEPTION;
    return sys_done(ctx, "bind", bind(fd, (struct sockaddr *)&address, sizeof address));
}

/* True when connected, false when the connection is under way (EINPROGRESS). */
SYS_IMPL(js_connect) {
    SYS_UNUSED;
    struct address address;
    SYS_ARG_I32(fd, 0);
    if (get_address(ctx, argv[1], argv[2], &address)) return JS_EXCEPTION;
    if (connect(fd, &address.of.any, address.length) == 0) return JS_TRUE;
    if (errno == EINPROGRESS || errno == EINTR) return JS_FALSE;
    return sys_throw(ctx, "connect");
}

SYS_IMPL(js_listen) {
    SYS_UNUSED;
    SYS_ARG_I32(fd, 0);
    SYS_ARG_I32(backlog, 1);
    return sys_done(ctx, "listen", listen(fd, backlog));
}

/* -1 for EAGAIN and for a connection that ended before it was accepted. */
SYS_IMPL(js_accept4) {
    SYS_UNUSED;
    SYS_ARG_I32(fd, 0);
    SYS_ARG_I32(flags, 1);
    int64_t accepted = SYS_RETRY(accept4(fd, NULL, NULL, flags | SOCK_CLOEXEC));
    if (accepted < 0 && (errno == EAGAIN || errno == ECONNABORTED)) return JS_NewInt32(ctx, -1);
    return sys_result(ctx, "accept4", accepted);
}

/* The pending error of a socket (SO_ERROR) as an errno; 0 for none. */
SYS_IMPL(js_socket_error) {
    SYS_UNUSED;
    int error = 0;
    socklen_t length = sizeof error;
    SYS_ARG_I32(fd, 0);
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0) return sys_throw(ctx, "getsockopt");
    return JS_NewInt32(ctx, error);
}

SYS_IMPL(js_setsockopt) {
    SYS_UNUSED;
    SYS_ARG_I32(fd, 0);
    SYS_ARG_I32(level, 1);
    SYS_ARG_I32(option, 2);
    SYS_ARG_I32(value, 3);
    return sys_done(ctx, "setsockopt", setsockopt(fd, level, option, &value, sizeof value));
}

SYS_IMPL(js_shutdown) {
    SYS_UNUSED;
    SYS_ARG_I32(fd, 0);
    SYS_ARG_I32(how, 1);
    return sys_done(ctx, "shutdown", shutdown(fd, how));
}

/* A vsock socket's own (cid, port); the port part of getsockname(2). */
SYS_IMPL(js_vsock_port) {
    SYS_UNUSED;
    struct sockaddr_vm address;
    socklen_t length = sizeof address;
    SYS_ARG_I32(fd, 0);
    if (getsockname(fd, (struct sockaddr *)&address, &length) < 0) return sys_throw(ctx, "getsockname");
    return JS_NewUint32(ctx, address.svm_port);
}

/* Sends bytes with descriptors attached (SCM_RIGHTS). -1 for EAGAIN. */
SYS_IMPL(js_send_fds) {
    SYS_UNUSED;
    struct sys_buf buf;
    SYS_ARG_I32(fd, 0);
    if (sys_buf(ctx, argv[1], &buf)) return JS_EXCEPTION;
    int fds[MAX_PASSED], count = 0;
    for (; count < MAX_PASSED; count++) {
        JSValue item = JS_GetPropertyUint32(ctx, argv[2], (uint32_t)count);
        if (JS_IsUndefined(item)) break;
        int failed = sys_i32(ctx, item, &fds[count]);
        JS_FreeValue(ctx, item);
        if (failed) return JS_EXCEPTION;
    }
    struct iovec bytes = {buf.data, buf.length};
    int64_t sent = send_with(fd, &bytes, 1, fds, count);
    if (sent < 0 && errno == EAGAIN) return JS_NewInt32(ctx, -1);
    return sys_result(ctx, "sendmsg", sent);
}

/* [bytes read, fd, fd, ...]; the descriptors are close-on-exec. [-1] for EAGAIN. */
SYS_IMPL(js_receive_fds) {
    SYS_UNUSED;
    struct sys_buf buf;
    SYS_ARG_I32(fd, 0);
    if (sys_buf(ctx, argv[1], &buf)) return JS_EXCEPTION;
    int fds[MAX_PASSED], count;
    int64_t got = receive_with(fd, buf.data, buf.length, 0, fds, &count);
    if (got < 0 && errno != EAGAIN) return sys_throw(ctx, "recvmsg");
    JSValue result = JS_NewArray(ctx);
    JS_SetPropertyUint32(ctx, result, 0, JS_NewInt64(ctx, got));
    for (int i = 0; i < count; i++) JS_SetPropertyUint32(ctx, result, (uint32_t)i + 1, JS_NewInt32(ctx, fds[i]));
    return result;
}

static const JSCFunctionListEntry socket_functions[] = {
    SYS_FN("socket", 3, js_socket),
    SYS_FN("socketpair", 2, js_socketpair),
    SYS_FN("bind", 3, js_bind),
    SYS_FN("bindNetlink", 2, js_bind_netlink),
    SYS_FN("connect", 3, js_connect),
    SYS_FN("listen", 2, js_listen),
    SYS_FN("accept4", 2, js_accept4),
    SYS_FN("socketError", 1, js_socket_error),
    SYS_FN("setsockopt", 4, js_setsockopt),
    SYS_FN("shutdown", 2, js_shutdown),
    SYS_FN("vsockPort", 1, js_vsock_port),
    SYS_FN("sendFds", 3, js_send_fds),
    SYS_FN("receiveFds", 2, js_receive_fds),
};
SYS_TABLE(socket_functions)
