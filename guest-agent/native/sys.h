/*
 * Shared by the C files that make up the "sys" module: mechanism only, policy lives in TypeScript.
 *
 * A file defines functions, lists them in a JSCFunctionListEntry table and hands the table to SYS_TABLE. All tables
 * together are the exports of the module "sys" (typed in src/sys.d.ts). A function takes numbers, strings and buffers,
 * and returns a number, a buffer or undefined, or throws an Error with { code: "ENOENT", errno, syscall }.
 * EINTR never leaves C. EAGAIN leaves C as -1 where src/sys.d.ts says so.
 */
#ifndef CAISSON_SYS_H
#define CAISSON_SYS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <quickjs.h>

#define SYS_COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))

/* One file's share of the module's exports; linked into a list before main() runs. */
struct sys_table {
    const JSCFunctionListEntry *entries;
    int count;
    struct sys_table *next;
};
void sys_register(struct sys_table *table);

#define SYS_TABLE(list)                                                                                                \
    static struct sys_table list##_table = {list, SYS_COUNT(list), NULL};                                              \
    __attribute__((constructor)) static void list##_register(void) { sys_register(&list##_table); }

/* A table entry: the JavaScript name, the number of arguments, the C function. */
#define SYS_FN(name, length, function) JS_CFUNC_DEF(name, length, function)
#define SYS_INT(name) JS_PROP_INT32_DEF(#name, name, JS_PROP_ENUMERABLE)

/* Throws the Error for the current errno; returns JS_EXCEPTION. */
JSValue sys_throw(JSContext *ctx, const char *syscall);
/* The same for an error number other than errno. */
JSValue sys_throw_errno(JSContext *ctx, const char *syscall, int error);
/* Returns `result` as a number, or throws for errno when it is negative. */
JSValue sys_result(JSContext *ctx, const char *syscall, int64_t result);
/* Returns undefined, or throws for errno when `result` is negative. */
JSValue sys_done(JSContext *ctx, const char *syscall, int64_t result);

/* A JavaScript string as UTF-8, freed at the end of the scope: SYS_STR struct sys_str path = sys_str(ctx, argv[0]). */
struct sys_str {
    JSContext *ctx;
    const char *s; /* NULL: a pending exception (sys_str), or undefined/null was given (sys_str_opt) */
    bool failed;
};
void sys_str_free(struct sys_str *str);
#define SYS_STR __attribute__((cleanup(sys_str_free)))
/* Fails (s == NULL) for a string with a NUL inside too: the kernel would see a shorter one. */
struct sys_str sys_str(JSContext *ctx, JSValueConst value);
/* undefined and null give s == NULL without failing. */
struct sys_str sys_str_opt(JSContext *ctx, JSValueConst value);

/* An array of strings as a NULL-terminated vector: SYS_STRV struct sys_strv argv = sys_strv(ctx, value). */
struct sys_strv {
    JSContext *ctx;
    char **v; /* NULL: a pending exception */
};
void sys_strv_free(struct sys_strv *strv);
#define SYS_STRV __attribute__((cleanup(sys_strv_free)))
struct sys_strv sys_strv(JSContext *ctx, JSValueConst value);

/* The bytes of an ArrayBuffer or typed array; valid until JavaScript runs again. Returns -1 with an exception. */
struct sys_buf {
    uint8_t *data;
    size_t length;
};
int sys_buf(JSContext *ctx, JSValueConst value, struct sys_buf *out);
/* The part [offset, offset + length) of a buffer; a RangeError when it is outside. undefined offset/length: the whole. */
int sys_buf_range(JSContext *ctx, JSValueConst value, JSValueConst offset, JSValueConst length, struct sys_buf *out);

/* Numbers: 0, or -1 with a pending exception. */
static inline int sys_i32(JSContext *ctx, JSValueConst value, int *out) {
    int32_t number;
    if (JS_ToInt32(ctx, &number, value)) return -1;
    *out = number;
    return 0;
}
static inline int sys_u32(JSContext *ctx, JSValueConst value, uint32_t *out) {
    return JS_ToUint32(ctx, out, value);
}
/* Numbers and BigInts. */
static inline int sys_i64(JSContext *ctx, JSValueConst value, int64_t *out) {
    return JS_ToInt64Ext(ctx, out, value);
}

/* Repeats a system call while it is interrupted. */
#define SYS_RETRY(expression)                                                                                          \
    __extension__({                                                                                                    \
        int64_t sys_retry_result;                                                                                      \
        do sys_retry_result = (int64_t)(expression);                                                                   \
        while (sys_retry_result < 0 && errno == EINTR);                                                                \
        sys_retry_result;                                                                                              \
    })

#define SYS_ARG_I32(name, index)                                                                                       \
    int name;                                                                                                          \
    if (sys_i32(ctx, argv[index], &name)) return JS_EXCEPTION
#define SYS_ARG_I64(name, index)                                                                                       \
    int64_t name;                                                                                                      \
    if (sys_i64(ctx, argv[index], &name)) return JS_EXCEPTION
#define SYS_ARG_STR(name, index)                                                                                       \
    SYS_STR struct sys_str name = sys_str(ctx, argv[index]);                                                           \
    if (name.failed) return JS_EXCEPTION
#define SYS_ARG_STR_OPT(name, index)                                                                                   \
    SYS_STR struct sys_str name = sys_str_opt(ctx, argv[index]);                                                       \
    if (name.failed) return JS_EXCEPTION

/* The signature of every exported function; `argv` always has the declared number of elements (undefined-filled). */
#define SYS_IMPL(name) static JSValue name(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv)
#define SYS_UNUSED ((void)ctx, (void)self, (void)argc, (void)argv)

#endif
