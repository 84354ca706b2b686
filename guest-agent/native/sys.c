/* The "sys" module's glue: tables, argument conversion, errors. */
#include "sys.h"
#include "runtime.h"

static struct sys_table *tables;

void sys_register(struct sys_table *table) {
    table->next = tables;
    tables = table;
}

static int init_module(JSContext *ctx, JSModuleDef *module) {
    for (struct sys_table *table = tables; table; table = table->next)
        if (JS_SetModuleExportList(ctx, module, table->entries, table->count)) return -1;
    return 0;
}

JSModuleDef *sys_module(JSContext *ctx) {
    JSModuleDef *module = JS_NewCModule(ctx, "sys", init_module);
    if (!module) return NULL;
    for (struct sys_table *table = tables; table; table = table->next)
        if (JS_AddModuleExportList(ctx, module, table->entries, table->count)) return NULL;
    return module;
}

/* strerrorname_np and strerrordesc_np (glibc 2.32) give names and plain English without touching the locale. */
JSValue sys_throw_errno(JSContext *ctx, const char *syscall, int error) {
    const char *name = strerrorname_np(error);
    const char *description = strerrordesc_np(error);
    char message[160];
    snprintf(message, sizeof message, "%s: %s", syscall, description ? description : "unknown error");
    JSValue object = JS_NewError(ctx);
    if (JS_IsException(object)) return object;
    const int flags = JS_PROP_CONFIGURABLE | JS_PROP_WRITABLE;
    JS_DefinePropertyValueStr(ctx, object, "message", JS_NewString(ctx, message), flags);
    JS_DefinePropertyValueStr(ctx, object, "code", JS_NewString(ctx, name ? name : "EUNKNOWN"), flags);
    JS_DefinePropertyValueStr(ctx, object, "errno", JS_NewInt32(ctx, error), flags);
    JS_DefinePropertyValueStr(ctx, object, "syscall", JS_NewString(ctx, syscall), flags);
    return JS_Throw(ctx, object);
}

JSValue sys_throw(JSContext *ctx, const char *syscall) {
    return sys_throw_errno(ctx, syscall, errno);
}

JSValue sys_result(JSContext *ctx, const char *syscall, int64_t result) {
    return result < 0 ? sys_throw(ctx, syscall) : JS_NewInt64(ctx, result);
}

JSValue sys_done(JSContext *ctx, const char *syscall, int64_t result) {
    return result < 0 ? sys_throw(ctx, syscall) : JS_UNDEFINED;
}

void sys_str_free(struct sys_str *str) {
    if (str->s) JS_FreeCString(str->ctx, str->s);
}

struct sys_str sys_str(JSContext *ctx, JSValueConst value) {
    struct sys_str str = {ctx, NULL, true};
    if (!JS_IsString(value)) {
        JS_ThrowTypeError(ctx, "a string is expected");
        return str;
    }
    size_t length;
    const char *s = JS_ToCStringLen(ctx, &length, value);
    if (!s) return str;
    if (strlen(s) != length) {
        JS_FreeCString(ctx, s);
        sys_throw_errno(ctx, "string with a NUL character", EINVAL);
        return str;
    }
    str.s = s;
    str.failed = false;
    return str;
}

struct sys_str sys_str_opt(JSContext *ctx, JSValueConst value) {
    if (JS_IsUndefined(value) || JS_IsNull(value)) return (struct sys_str){ctx, NULL, false};
    return sys_str(ctx, value);
}

void sys_strv_free(struct sys_strv *strv) {
    if (!strv->v) return;
    for (char **item = strv->v; *item; item++) free(*item);
    free(strv->v);
}

struct sys_strv sys_strv(JSContext *ctx, JSValueConst value) {
    struct sys_strv strv = {ctx, NULL};
    JSValue length_value = JS_GetPropertyStr(ctx, value, "length");
    uint32_t length;
    int failed = JS_ToUint32(ctx, &length, length_value);
    JS_FreeValue(ctx, length_value);
    if (failed) return strv;
    char **v = calloc((size_t)length + 1, sizeof *v);
    if (!v) {
        JS_ThrowOutOfMemory(ctx);
        return strv;
    }
    for (uint32_t i = 0; i < length; i++) {
        JSValue item = JS_GetPropertyUint32(ctx, value, i);
        SYS_STR struct sys_str str = sys_str(ctx, item);
        JS_FreeValue(ctx, item);
        v[i] = str.s ? strdup(str.s) : NULL;
        if (!v[i]) {
            if (str.s) JS_ThrowOutOfMemory(ctx);
            struct sys_strv partial = {ctx, v};
            sys_strv_free(&partial);
            return strv;
        }
    }
    strv.v = v;
    return strv;
}

int sys_buf(JSContext *ctx, JSValueConst value, struct sys_buf *out) {
    size_t offset = 0, length = 0, size = 0;
    JSValue buffer = JS_GetTypedArrayBuffer(ctx, value, &offset, &length, NULL);
    if (JS_IsException(buffer)) {
        JS_FreeValue(ctx, JS_GetException(ctx));
        out->data = JS_GetArrayBuffer(ctx, &out->length, value);
        return out->data || out->length == 0 ? (out->data ? 0 : -1) : -1;
    }
    uint8_t *data = JS_GetArrayBuffer(ctx, &size, buffer);
    /* The view keeps its buffer alive, and argv keeps the view. */
    JS_FreeValue(ctx, buffer);
    if (!data) return -1;
    if (offset > size || length > size - offset) {
        JS_ThrowRangeError(ctx, "the view lies outside of its buffer");
        return -1;
    }
    out->data = data + offset;
    out->length = length;
    return 0;
}

int sys_buf_range(JSContext *ctx, JSValueConst value, JSValueConst offset, JSValueConst length, struct sys_buf *out) {
    if (sys_buf(ctx, value, out)) return -1;
    int64_t from = 0, count;
    if (!JS_IsUndefined(offset) && sys_i64(ctx, offset, &from)) return -1;
    count = (int64_t)out->length - from;
    if (!JS_IsUndefined(length) && sys_i64(ctx, length, &count)) return -1;
    if (from < 0 || count < 0 || from > (int64_t)out->length || count > (int64_t)out->length - from) {
        JS_ThrowRangeError(ctx, "the range lies outside of the buffer");
        return -1;
    }
    out->data += from;
    out->length = (size_t)count;
    return 0;
}
