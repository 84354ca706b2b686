/* Process plans: from a JavaScript object to bytes, and from bytes to what become.c carries out. */
#include "process_plan.h"

#define SENT offsetof(struct process_plan, groups)

void plan_bytes_free(struct plan_bytes *bytes) {
    free(bytes->data);
    bytes->data = NULL;
}

static int append(JSContext *ctx, struct plan_bytes *bytes, const void *data, size_t length) {
    if (bytes->capacity - bytes->length < length) {
        size_t capacity = 2 * (bytes->length + length) + 1024;
        uint8_t *larger = realloc(bytes->data, capacity);
        if (!larger) {
            JS_ThrowOutOfMemory(ctx);
            return -1;
        }
        bytes->data = larger;
        bytes->capacity = capacity;
    }
    memcpy(bytes->data + bytes->length, data, length);
    bytes->length += length;
    return 0;
}

static int number(JSContext *ctx, JSValueConst object, const char *name, int64_t *out) {
    JSValue value = JS_GetPropertyStr(ctx, object, name);
    int failed = JS_IsException(value) || sys_i64(ctx, value, out);
    JS_FreeValue(ctx, value);
    return failed ? -1 : 0;
}

static int append_text(JSContext *ctx, struct plan_bytes *bytes, JSValueConst value) {
    SYS_STR struct sys_str text = sys_str(ctx, value);
    return text.failed ? -1 : append(ctx, bytes, text.s, strlen(text.s) + 1);
}

static int append_number(JSContext *ctx, struct plan_bytes *bytes, JSValueConst value) {
    int64_t item;
    return sys_i64(ctx, value, &item) ? -1 : append(ctx, bytes, &item, sizeof item);
}

/* The elements of the list `name`; `*count` is their number. */
static int append_list(JSContext *ctx, struct plan_bytes *bytes, JSValueConst object, const char *name, int64_t *count,
                       int (*append_item)(JSContext *, struct plan_bytes *, JSValueConst)) {
    JSValue list = JS_GetPropertyStr(ctx, object, name);
    int failed = JS_IsException(list) || number(ctx, list, "length", count);
    for (uint32_t i = 0; !failed && i < *count; i++) {
        JSValue item = JS_GetPropertyUint32(ctx, list, i);
        failed = JS_IsException(item) || append_item(ctx, bytes, item);
        JS_FreeValue(ctx, item);
    }
    JS_FreeValue(ctx, list);
    return failed ? -1 : 0;
}

static int append_one(JSContext *ctx, struct plan_bytes *bytes, JSValueConst object, const char *name) {
    JSValue value = JS_GetPropertyStr(ctx, object, name);
    int failed = JS_IsException(value) || append_text(ctx, bytes, value);
    JS_FreeValue(ctx, value);
    return failed ? -1 : 0;
}

static int append_filter(JSContext *ctx, struct plan_bytes *bytes, JSValueConst object, int64_t *count) {
    JSValue value = JS_GetPropertyStr(ctx, object, "filter");
    struct sys_buf filter = {NULL, 0};
    int failed = JS_IsException(value) || (!JS_IsUndefined(value) && sys_buf(ctx, value, &filter));
    *count = (int64_t)(filter.length / sizeof(struct sock_filter));
    if (!failed && filter.length > 0) failed = append(ctx, bytes, filter.data, filter.length);
    JS_FreeValue(ctx, value);
    return failed ? -1 : 0;
}

#define NUMBER(field, name) {offsetof(struct process_plan, field), name}
static const struct {
    size_t offset;
    const char *name;
} numbers[] = {
    NUMBER(uid, "uid"),
    NUMBER(gid, "gid"),
    NUMBER(umask, "umask"),
    NUMBER(bounding, "bounding"),
    NUMBER(effective, "effective"),
    NUMBER(permitted, "permitted"),
    NUMBER(inheritable, "inheritable"),
    NUMBER(ambient, "ambient"),
    NUMBER(personality, "personality"),
    NUMBER(io_priority, "ioPriority"),
    NUMBER(no_new_privileges, "noNewPrivileges"),
    NUMBER(filter_flags, "filterFlags"),
    NUMBER(needs_home, "needsHome"),
    NUMBER(terminal, "terminal"),
    NUMBER(rows, "rows"),
    NUMBER(columns, "columns"),
    NUMBER(oom_score, "oomScore"),
};

int process_plan_encode(JSContext *ctx, JSValueConst object, struct plan_bytes *bytes) {
    struct process_plan plan = {0};
    for (int i = 0; i < SYS_COUNT(numbers); i++)
        if (number(ctx, object, numbers[i].name, (int64_t *)(void *)((char *)&plan + numbers[i].offset))) return -1;
    if (append(ctx, bytes, &plan, SENT) ||
        append_list(ctx, bytes, object, "groups", &plan.group_count, append_number) ||
        append_list(ctx, bytes, object, "limits", &plan.limit_count, append_number) ||
        append_list(ctx, bytes, object, "scheduler", &plan.scheduler_count, append_number) ||
        append_filter(ctx, bytes, object, &plan.filter_count))
        return -1;
    size_t texts = bytes->length;
    if (append_one(ctx, bytes, object, "cwd") || append_one(ctx, bytes, object, "passwd") ||
        append_one(ctx, bytes, object, "home") ||
        append_list(ctx, bytes, object, "args", &plan.arg_count, append_text) ||
        append_list(ctx, bytes, object, "env", &plan.env_count, append_text) ||
        append_list(ctx, bytes, object, "candidates", &plan.candidate_count, append_text))
        return -1;
    plan.text_length = (int64_t)(bytes->length - texts);
    memcpy(bytes->data, &plan, SENT);
    return 0;
}

/* The next text of the plan; NULL when there is none. */
static char *next_text(char **rest, char *end) {
    char *text = *rest;
    char *last = memchr(text, 0, (size_t)(end - text));
    if (last) *rest = last + 1;
    return last ? text : NULL;
}

/* `count` texts, NULL-terminated, with room for `spare` more. */
static char **text_list(char **rest, char *end, int64_t count, int64_t spare) {
    char **list = calloc((size_t)(count + spare + 1), sizeof *list);
    for (int64_t i = 0; list && i < count; i++) list[i] = next_text(rest, end);
    return list;
}

int process_plan_open(const struct plan_bytes *bytes, struct process_plan *plan) {
    memset(plan, 0, sizeof *plan);
    errno = EINVAL;
    if (bytes->length < SENT) return -1;
    memcpy(plan, bytes->data, SENT);
    size_t listed = (size_t)(plan->group_count + plan->limit_count + plan->scheduler_count) * sizeof(int64_t) +
                    (size_t)plan->filter_count * sizeof(struct sock_filter);
    if (bytes->length != SENT + listed + (size_t)plan->text_length) return -1;
    plan->groups = (const int64_t *)(const void *)(bytes->data + SENT);
    plan->limits = plan->groups + plan->group_count;
    plan->scheduler = plan->limits + plan->limit_count;
    plan->filter = (struct sock_filter *)(uintptr_t)(plan->scheduler + plan->scheduler_count);
    char *rest = (char *)(plan->filter + plan->filter_count), *end = (char *)bytes->data + bytes->length;
    plan->cwd = next_text(&rest, end);
    plan->passwd = next_text(&rest, end);
    plan->home = next_text(&rest, end);
    plan->args = text_list(&rest, end, plan->arg_count, 0);
    plan->env = text_list(&rest, end, plan->env_count, 1);
    plan->candidates = text_list(&rest, end, plan->candidate_count, 0);
    if (plan->args && plan->env && plan->candidates) return 0;
    process_plan_close(plan);
    errno = ENOMEM;
    return -1;
}

void process_plan_close(struct process_plan *plan) {
    free(plan->args);
    free(plan->env);
    free(plan->candidates);
}
