/* Files, directories and file system objects. */
#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "sys.h"

SYS_IMPL(js_openat) {
    SYS_UNUSED;
    SYS_ARG_I32(dirfd, 0);
    SYS_ARG_STR(path, 1);
    SYS_ARG_I32(flags, 2);
    SYS_ARG_I32(mode, 3);
    return sys_result(ctx, "openat", SYS_RETRY(openat(dirfd, path.s, flags | O_CLOEXEC, mode)));
}

/* EAGAIN: a rename raced with a scoped lookup (openat2(2)); the lookup may simply be repeated. */
#define OPENAT2_ATTEMPTS 128

SYS_IMPL(js_openat2) {
    SYS_UNUSED;
    SYS_ARG_I32(dirfd, 0);
    SYS_ARG_STR(path, 1);
    SYS_ARG_I32(flags, 2);
    SYS_ARG_I32(mode, 3);
    SYS_ARG_I32(resolve, 4);
    struct open_how how = {
        .flags = (uint32_t)(flags | O_CLOEXEC), .mode = (uint32_t)mode, .resolve = (uint32_t)resolve};
    int64_t fd;
    int attempts = 0;
    do fd = SYS_RETRY(syscall(SYS_openat2, dirfd, path.s, &how, sizeof how));
    while (fd < 0 && errno == EAGAIN && ++attempts < OPENAT2_ATTEMPTS);
    return sys_result(ctx, "openat2", fd);
}

SYS_IMPL(js_close) {
    SYS_UNUSED;
    SYS_ARG_I32(fd, 0);
    /* Linux releases the descriptor even when close reports EINTR. */
    if (close(fd) < 0 && errno != EINTR) return sys_throw(ctx, "close");
    return JS_UNDEFINED;
}

/* read/write answer -1 for EAGAIN so that pumping costs no exception. */
static JSValue transferred(JSContext *ctx, const char *syscall, int64_t result) {
    if (result < 0 && errno == EAGAIN) return JS_NewInt32(ctx, -1);
    return sys_result(ctx, syscall, result);
}

SYS_IMPL(js_read) {
    SYS_UNUSED;
    struct sys_buf buf;
    SYS_ARG_I32(fd, 0);
    if (sys_buf_range(ctx, argv[1], argv[2], argv[3], &buf)) return JS_EXCEPTION;
    return transferred(ctx, "read", SYS_RETRY(read(fd, buf.data, buf.length)));
}

SYS_IMPL(js_write) {
    SYS_UNUSED;
    struct sys_buf buf;
    SYS_ARG_I32(fd, 0);
    if (sys_buf_range(ctx, argv[1], argv[2], argv[3], &buf)) return JS_EXCEPTION;
    return transferred(ctx, "write", SYS_RETRY(write(fd, buf.data, buf.length)));
}

SYS_IMPL(js_lseek) {
    SYS_UNUSED;
    SYS_ARG_I32(fd, 0);
    SYS_ARG_I64(offset, 1);
    SYS_ARG_I32(whence, 2);
    return sys_result(ctx, "lseek", lseek(fd, offset, whence));
}

static void close_fd(int *fd) {
    if (*fd >= 0) close(*fd);
}

/* The whole file as an ArrayBuffer; works for /proc and /sys, whose sizes are not known beforehand. */
SYS_IMPL(js_read_file) {
    SYS_UNUSED;
    SYS_ARG_STR(path, 0);
    SYS_ARG_I64(limit, 1);
    __attribute__((cleanup(close_fd))) int fd = open(path.s, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return sys_throw(ctx, "open");
    size_t used = 0, capacity = 4096;
    uint8_t *data = js_malloc(ctx, capacity);
    if (!data) return JS_EXCEPTION;
    for (;;) {
        int64_t got = SYS_RETRY(read(fd, data + used, capacity - used));
        if (got < 0) {
            JSValue thrown = sys_throw(ctx, "read");
            js_free(ctx, data);
            return thrown;
        }
        if (got == 0) break;
        used += (size_t)got;
        if ((int64_t)used > limit) {
            js_free(ctx, data);
            return sys_throw_errno(ctx, "read", EFBIG);
        }
        if (used < capacity) continue;
        uint8_t *grown = js_realloc(ctx, data, capacity * 2);
        if (!grown) {
            js_free(ctx, data);
            return JS_EXCEPTION;
        }
        data = grown;
        capacity *= 2;
    }
    JSValue result = JS_NewArrayBufferCopy(ctx, data, used);
    js_free(ctx, data);
    return result;
}

/* One open, one write, one close: what /proc, /sys and cgroup files want. */
SYS_IMPL(js_write_file) {
    SYS_UNUSED;
    struct sys_buf buf;
    SYS_ARG_STR(path, 0);
    SYS_ARG_I32(flags, 2);
    SYS_ARG_I32(mode, 3);
    SYS_STR struct sys_str text = {ctx, NULL, false};
    if (JS_IsString(argv[1])) {
        text.s = JS_ToCStringLen(ctx, &buf.length, argv[1]);
        if (!text.s) return JS_EXCEPTION;
        buf.data = (uint8_t *)(uintptr_t)text.s;
    } else if (sys_buf(ctx, argv[1], &buf)) {
        return JS_EXCEPTION;
    }
    __attribute__((cleanup(close_fd))) int fd = open(path.s, flags | O_CLOEXEC, mode);
    if (fd < 0) return sys_throw(ctx, "open");
    do {
        int64_t written = SYS_RETRY(write(fd, buf.data, buf.length));
        if (written < 0) return sys_throw(ctx, "write");
        buf.data += written;
        buf.length -= (size_t)written;
    } while (buf.length > 0);
    return JS_UNDEFINED;
}

SYS_IMPL(js_pipe2) {
    SYS_UNUSED;
    SYS_ARG_I32(flags, 0);
    int fds[2];
    if (pipe2(fds, flags | O_CLOEXEC) < 0) return sys_throw(ctx, "pipe2");
    JSValue pair = JS_NewArray(ctx);
    JS_SetPropertyUint32(ctx, pair, 0, JS_NewInt32(ctx, fds[0]));
    JS_SetPropertyUint32(ctx, pair, 1, JS_NewInt32(ctx, fds[1]));
    return pair;
}

SYS_IMPL(js_dup3) {
    SYS_UNUSED;
    SYS_ARG_I32(from, 0);
    SYS_ARG_I32(to, 1);
    SYS_ARG_I32(flags, 2);
    return sys_result(ctx, "dup3", SYS_RETRY(dup3(from, to, flags)));
}

SYS_IMPL(js_fcntl) {
    SYS_UNUSED;
    SYS_ARG_I32(fd, 0);
    SYS_ARG_I32(command, 1);
    SYS_ARG_I64(argument, 2);
    return sys_result(ctx, "fcntl", SYS_RETRY(fcntl(fd, command, argument)));
}

SYS_IMPL(js_ftruncate) {
    SYS_UNUSED;
    SYS_ARG_I32(fd, 0);
    SYS_ARG_I64(length, 1);
    return sys_done(ctx, "ftruncate", SYS_RETRY(ftruncate(fd, length)));
}

SYS_IMPL(js_mkdirat) {
    SYS_UNUSED;
    SYS_ARG_I32(dirfd, 0);
    SYS_ARG_STR(path, 1);
    SYS_ARG_I32(mode, 2);
    return sys_done(ctx, "mkdirat", mkdirat(dirfd, path.s, (mode_t)mode));
}

SYS_IMPL(js_mknodat) {
    SYS_UNUSED;
    SYS_ARG_I32(dirfd, 0);
    SYS_ARG_STR(path, 1);
    SYS_ARG_I32(mode, 2);
    SYS_ARG_I32(major_number, 3);
    SYS_ARG_I32(minor_number, 4);
    dev_t device = makedev((unsigned)major_number, (unsigned)minor_number);
    return sys_done(ctx, "mknodat", mknodat(dirfd, path.s, (mode_t)mode, device));
}

SYS_IMPL(js_symlinkat) {
    SYS_UNUSED;
    SYS_ARG_STR(target, 0);
    SYS_ARG_I32(dirfd, 1);
    SYS_ARG_STR(path, 2);
    return sys_done(ctx, "symlinkat", symlinkat(target.s, dirfd, path.s));
}

SYS_IMPL(js_linkat) {
    SYS_UNUSED;
    SYS_ARG_I32(from_dirfd, 0);
    SYS_ARG_STR(from, 1);
    SYS_ARG_I32(to_dirfd, 2);
    SYS_ARG_STR(to, 3);
    SYS_ARG_I32(flags, 4);
    return sys_done(ctx, "linkat", linkat(from_dirfd, from.s, to_dirfd, to.s, flags));
}

SYS_IMPL(js_unlinkat) {
    SYS_UNUSED;
    SYS_ARG_I32(dirfd, 0);
    SYS_ARG_STR(path, 1);
    SYS_ARG_I32(flags, 2);
    return sys_done(ctx, "unlinkat", unlinkat(dirfd, path.s, flags));
}

SYS_IMPL(js_renameat2) {
    SYS_UNUSED;
    SYS_ARG_I32(from_dirfd, 0);
    SYS_ARG_STR(from, 1);
    SYS_ARG_I32(to_dirfd, 2);
    SYS_ARG_STR(to, 3);
    SYS_ARG_I32(flags, 4);
    return sys_done(ctx, "renameat2", syscall(SYS_renameat2, from_dirfd, from.s, to_dirfd, to.s, flags));
}

SYS_IMPL(js_readlinkat) {
    SYS_UNUSED;
    char target[4096]; /* PATH_MAX */
    SYS_ARG_I32(dirfd, 0);
    SYS_ARG_STR(path, 1);
    ssize_t length = readlinkat(dirfd, path.s, target, sizeof target);
    if (length < 0) return sys_throw(ctx, "readlinkat");
    return JS_NewStringLen(ctx, target, (size_t)length);
}

static JSValue stat_object(JSContext *ctx, const struct stat *info) {
    JSValue object = JS_NewObject(ctx);
    if (JS_IsException(object)) return object;
    JS_SetPropertyStr(ctx, object, "mode", JS_NewUint32(ctx, info->st_mode));
    JS_SetPropertyStr(ctx, object, "uid", JS_NewUint32(ctx, info->st_uid));
    JS_SetPropertyStr(ctx, object, "gid", JS_NewUint32(ctx, info->st_gid));
    JS_SetPropertyStr(ctx, object, "size", JS_NewInt64(ctx, info->st_size));
    JS_SetPropertyStr(ctx, object, "ino", JS_NewInt64(ctx, (int64_t)info->st_ino));
    JS_SetPropertyStr(ctx, object, "dev", JS_NewInt64(ctx, (int64_t)info->st_dev));
    JS_SetPropertyStr(ctx, object, "ctimeNs",
                      JS_NewBigInt64(ctx, info->st_ctim.tv_sec * INT64_C(1000000000) + info->st_ctim.tv_nsec));
    JS_SetPropertyStr(ctx, object, "nlink", JS_NewInt64(ctx, (int64_t)info->st_nlink));
    JS_SetPropertyStr(ctx, object, "rdevMajor", JS_NewUint32(ctx, major(info->st_rdev)));
    JS_SetPropertyStr(ctx, object, "rdevMinor", JS_NewUint32(ctx, minor(info->st_rdev)));
    return object;
}

SYS_IMPL(js_fstatat) {
    SYS_UNUSED;
    struct stat info;
    SYS_ARG_I32(dirfd, 0);
    SYS_ARG_STR(path, 1);
    SYS_ARG_I32(flags, 2);
    if (fstatat(dirfd, path.s, &info, flags) < 0) return sys_throw(ctx, "fstatat");
    return stat_object(ctx, &info);
}

SYS_IMPL(js_statfs) {
    SYS_UNUSED;
    struct statfs info;
    SYS_ARG_STR(path, 0);
    if (statfs(path.s, &info) < 0) return sys_throw(ctx, "statfs");
    JSValue object = JS_NewObject(ctx);
    JS_SetPropertyStr(ctx, object, "type", JS_NewUint32(ctx, (uint32_t)info.f_type));
    JS_SetPropertyStr(ctx, object, "flags", JS_NewInt64(ctx, info.f_flags));
    JS_SetPropertyStr(ctx, object, "blockSize", JS_NewInt64(ctx, info.f_bsize));
    JS_SetPropertyStr(ctx, object, "blocks", JS_NewInt64(ctx, (int64_t)info.f_blocks));
    JS_SetPropertyStr(ctx, object, "blocksFree", JS_NewInt64(ctx, (int64_t)info.f_bfree));
    return object;
}

SYS_IMPL(js_fchownat) {
    SYS_UNUSED;
    SYS_ARG_I32(dirfd, 0);
    SYS_ARG_STR(path, 1);
    SYS_ARG_I64(uid, 2);
    SYS_ARG_I64(gid, 3);
    SYS_ARG_I32(flags, 4);
    return sys_done(ctx, "fchownat", fchownat(dirfd, path.s, (uid_t)uid, (gid_t)gid, flags));
}

SYS_IMPL(js_fchmodat) {
    SYS_UNUSED;
    SYS_ARG_I32(dirfd, 0);
    SYS_ARG_STR(path, 1);
    SYS_ARG_I32(mode, 2);
    return sys_done(ctx, "fchmodat", fchmodat(dirfd, path.s, (mode_t)mode, 0));
}

SYS_IMPL(js_fchmod) {
    SYS_UNUSED;
    SYS_ARG_I32(fd, 0);
    SYS_ARG_I32(mode, 1);
    return sys_done(ctx, "fchmod", fchmod(fd, (mode_t)mode));
}

/* The names in a directory, without "." and "..". */
SYS_IMPL(js_readdir) {
    SYS_UNUSED;
    SYS_ARG_STR(path, 0);
    DIR *directory = opendir(path.s);
    if (!directory) return sys_throw(ctx, "opendir");
    JSValue names = JS_NewArray(ctx);
    uint32_t count = 0;
    for (;;) {
        errno = 0;
        struct dirent *entry = readdir(directory);
        if (!entry) break;
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        if (JS_SetPropertyUint32(ctx, names, count++, JS_NewString(ctx, entry->d_name)) < 0) break;
    }
    int error = errno;
    closedir(directory);
    if (error == 0) return names;
    JS_FreeValue(ctx, names);
    return sys_throw_errno(ctx, "readdir", error);
}

SYS_IMPL(js_umask) {
    SYS_UNUSED;
    SYS_ARG_I32(mask, 0);
    return JS_NewInt32(ctx, (int32_t)umask((mode_t)mask));
}

SYS_IMPL(js_chdir) {
    SYS_UNUSED;
    SYS_ARG_STR(path, 0);
    return sys_done(ctx, "chdir", chdir(path.s));
}

SYS_IMPL(js_fchdir) {
    SYS_UNUSED;
    SYS_ARG_I32(fd, 0);
    return sys_done(ctx, "fchdir", fchdir(fd));
}

SYS_IMPL(js_chroot) {
    SYS_UNUSED;
    SYS_ARG_STR(path, 0);
    return sys_done(ctx, "chroot", chroot(path.s));
}

static const JSCFunctionListEntry file_functions[] = {
    SYS_FN("openat", 4, js_openat),
    SYS_FN("openat2", 5, js_openat2),
    SYS_FN("close", 1, js_close),
    SYS_FN("read", 4, js_read),
    SYS_FN("write", 4, js_write),
    SYS_FN("lseek", 3, js_lseek),
    SYS_FN("readFile", 2, js_read_file),
    SYS_FN("writeFile", 4, js_write_file),
    SYS_FN("pipe2", 1, js_pipe2),
    SYS_FN("dup3", 3, js_dup3),
    SYS_FN("fcntl", 3, js_fcntl),
    SYS_FN("ftruncate", 2, js_ftruncate),
    SYS_FN("mkdirat", 3, js_mkdirat),
    SYS_FN("mknodat", 5, js_mknodat),
    SYS_FN("symlinkat", 3, js_symlinkat),
    SYS_FN("linkat", 5, js_linkat),
    SYS_FN("unlinkat", 3, js_unlinkat),
    SYS_FN("renameat2", 5, js_renameat2),
    SYS_FN("readlinkat", 2, js_readlinkat),
    SYS_FN("fstatat", 3, js_fstatat),
    SYS_FN("statfs", 1, js_statfs),
    SYS_FN("fchownat", 5, js_fchownat),
    SYS_FN("fchmodat", 3, js_fchmodat),
    SYS_FN("fchmod", 2, js_fchmod),
    SYS_FN("readdir", 1, js_readdir),
    SYS_FN("umask", 1, js_umask),
    SYS_FN("chdir", 1, js_chdir),
    SYS_FN("fchdir", 1, js_fchdir),
    SYS_FN("chroot", 1, js_chroot),
    /* These differ between architectures (asm/fcntl.h), so TypeScript takes them from here. */
    SYS_INT(O_DIRECTORY),
    SYS_INT(O_NOFOLLOW),
    SYS_INT(O_PATH),
};
SYS_TABLE(file_functions)
