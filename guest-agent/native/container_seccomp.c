/*
 * Seccomp: libseccomp turns rules into a BPF program, which is kept as bytes and installed by the process it is meant for
 * (become.c). Which rules there are is decided in src/container/seccomp.ts.
 */
#include "sys.h"

#include <seccomp.h>

static JSClassID filter_class;

static void filter_finalizer(JSRuntime *rt, JSValue value) {
    (void)rt;
    scmp_filter_ctx filter = JS_GetOpaque(value, filter_class);
    if (filter) seccomp_release(filter);
}

static const JSClassDef filter_class_def = {"SeccompFilter", .finalizer = filter_finalizer};

/* libseccomp returns negative error numbers. */
static JSValue done(JSContext *ctx, const char *call, int result) {
    return result < 0 ? sys_throw_errno(ctx, call, -result) : JS_UNDEFINED;
}

/* seccompNew(defaultAction): filter, with the native architecture only */
SYS_IMPL(js_seccomp_new) {
    SYS_UNUSED;
    SYS_ARG_I64(action, 0);
    if (filter_class == 0) {
        JS_NewClassID(&filter_class);
        if (JS_NewClass(JS_GetRuntime(ctx), filter_class, &filter_class_def) < 0) return JS_EXCEPTION;
    }
    JSValue object = JS_NewObjectProtoClass(ctx, JS_NULL, filter_class);
    if (JS_IsException(object)) return object;
    scmp_filter_ctx filter = seccomp_init((uint32_t)action);
    if (!filter) {
        JS_FreeValue(ctx, object);
        return sys_throw_errno(ctx, "seccomp_init", EINVAL);
    }
    JS_SetOpaque(object, filter);
    return object;
}

#define FILTER_ARG                                                                                                     \
    scmp_filter_ctx filter = JS_GetOpaque2(ctx, argv[0], filter_class);                                                \
    if (!filter) return JS_EXCEPTION

/* seccompAddArch(filter, name): false when this libseccomp does not know the name */
SYS_IMPL(js_seccomp_add_arch) {
    SYS_UNUSED;
    FILTER_ARG;
    SYS_ARG_STR(name, 1);
    uint32_t arch = seccomp_arch_resolve_name(name.s);
    if (arch == 0) return JS_FALSE;
    int result = seccomp_arch_add(filter, arch);
    if (result < 0 && result != -EEXIST) return sys_throw_errno(ctx, "seccomp_arch_add", -result);
    return JS_TRUE;
}

/* seccompResolve(name): the native number, negative where the call exists on other architectures only, or undefined */
SYS_IMPL(js_seccomp_resolve) {
    SYS_UNUSED;
    SYS_ARG_STR(name, 0);
    int number = seccomp_syscall_resolve_name(name.s);
    return number == __NR_SCMP_ERROR ? JS_UNDEFINED : JS_NewInt32(ctx, number);
}

static int comparison(JSContext *ctx, JSValueConst list, uint32_t index, struct scmp_arg_cmp *out) {
    int64_t fields[4];
    for (uint32_t i = 0; i < 4; i++) {
        JSValue value = JS_GetPropertyUint32(ctx, list, index * 4 + i);
        int failed = JS_IsException(value) || sys_i64(ctx, value, &fields[i]);
        JS_FreeValue(ctx, value);
        if (failed) return -1;
    }
    out->arg = (unsigned)fields[0];
    out->op = (enum scmp_compare)fields[1];
    out->datum_a = (scmp_datum_t)fields[2];
    out->datum_b = (scmp_datum_t)fields[3];
    return 0;
}

/* seccompAddRule(filter, action, syscallNumber, comparisons): comparisons is flat, four numbers or BigInts each */
SYS_IMPL(js_seccomp_add_rule) {
    SYS_UNUSED;
    FILTER_ARG;
    SYS_ARG_I64(action, 1);
    SYS_ARG_I32(number, 2);
    struct scmp_arg_cmp comparisons[6]; /* a system call has at most six arguments */
    JSValue length_value = JS_GetPropertyStr(ctx, argv[3], "length");
    uint32_t length = 0;
    int failed = JS_IsException(length_value) || JS_ToUint32(ctx, &length, length_value);
    JS_FreeValue(ctx, length_value);
    if (failed) return JS_EXCEPTION;
    if (length % 4 != 0 || length / 4 > 6) return sys_throw_errno(ctx, "seccomp_rule_add", EINVAL);
    for (uint32_t i = 0; i < length / 4; i++)
        if (comparison(ctx, argv[3], i, &comparisons[i])) return JS_EXCEPTION;
    return done(ctx, "seccomp_rule_add",
                seccomp_rule_add_array(filter, (uint32_t)action, number, length / 4, comparisons));
}

/* seccompExport(filter): ArrayBuffer with the BPF program */
SYS_IMPL(js_seccomp_export) {
    SYS_UNUSED;
    FILTER_ARG;
    size_t length = 0;
    int result = seccomp_export_bpf_mem(filter, NULL, &length);
    if (result < 0) return sys_throw_errno(ctx, "seccomp_export_bpf_mem", -result);
    uint8_t *bytes = js_malloc(ctx, length);
    if (!bytes) return JS_EXCEPTION;
    result = seccomp_export_bpf_mem(filter, bytes, &length);
    JSValue buffer =
        result < 0 ? sys_throw_errno(ctx, "seccomp_export_bpf_mem", -result) : JS_NewArrayBufferCopy(ctx, bytes, length);
    js_free(ctx, bytes);
    return buffer;
}

static const JSCFunctionListEntry container_seccomp_functions[] = {
    SYS_FN("seccompNew", 1, js_seccomp_new),
    SYS_FN("seccompAddArch", 2, js_seccomp_add_arch),
    SYS_FN("seccompResolve", 1, js_seccomp_resolve),
    SYS_FN("seccompAddRule", 4, js_seccomp_add_rule),
    SYS_FN("seccompExport", 1, js_seccomp_export),
};
SYS_TABLE(container_seccomp_functions)
