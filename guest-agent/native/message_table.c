/* Reads tables of messages; the build has written them, so what is wrong with one is an error of ours. */
#include "message_table.h"

#include <stdio.h>

static JSClassID schema_class;

static const char *name_of(const struct message *message, size_t *length) {
    *length = strcspn(message->text, " \n");
    return message->text;
}

static int set_type_name(JSContext *ctx, struct message *message) {
    size_t length;
    const char *name = name_of(message, &length);
    char full[256];
    int written = snprintf(full, sizeof full, "%s.%.*s", message->package, (int)length, name);
    if (written < 0 || (size_t)written >= sizeof full) {
        JS_ThrowInternalError(ctx, "the name of a message is too long");
        return -1;
    }
    message->type_name = JS_NewStringLen(ctx, full, (size_t)written);
    return JS_IsException(message->type_name) ? -1 : 0;
}

/* The next word of a line; false at its end. */
static bool next_word(const char **rest, const char **word, size_t *length) {
    if (**rest != ' ') return false;
    *word = *rest + 1;
    *length = strcspn(*word, " \n");
    *rest = *word + *length;
    return true;
}

static bool next_number(const char **rest, long *number) {
    const char *word;
    size_t length;
    if (!next_word(rest, &word, &length)) return false;
    *number = strtol(word, NULL, 10);
    return true;
}

/* "-" is none. */
static bool next_name(JSContext *ctx, const char **rest, JSAtom *name) {
    const char *word;
    size_t length;
    if (!next_word(rest, &word, &length)) return false;
    bool none = length == 1 && *word == '-';
    *name = none ? JS_ATOM_NULL : JS_NewAtomLen(ctx, word, length);
    return none || *name != JS_ATOM_NULL;
}

/* Number, name, type, rule, message and oneof of one field. */
static bool read_field(JSContext *ctx, struct message *message, const char **rest, struct field *field) {
    long number, type, rule, nested;
    if (!next_number(rest, &number) || !next_name(ctx, rest, &field->name) || !next_number(rest, &type) ||
        !next_number(rest, &rule) || !next_number(rest, &nested) || !next_name(ctx, rest, &field->oneof))
        return false;
    field->number = (uint32_t)number;
    field->type = (enum field_type)type;
    field->rule = (enum field_rule)rule;
    field->message = type == FIELD_MESSAGE ? message->file + nested : NULL;
    return type != FIELD_MESSAGE || (nested >= 0 && nested < message->file_count);
}

int message_open(JSContext *ctx, struct message *message) {
    if (message->fields) return 0;
    struct field fields[MAX_FIELDS];
    int count = 0;
    const char *rest = message->text + strcspn(message->text, " \n");
    for (; *rest == ' '; count++) {
        if (count == MAX_FIELDS || !read_field(ctx, message, &rest, &fields[count])) {
            JS_ThrowInternalError(ctx, "the table of a message is malformed");
            return -1;
        }
        fields[count].slot = count;
        for (int i = count - 1; i >= 0 && fields[count].oneof != JS_ATOM_NULL; i--)
            if (fields[i].oneof == fields[count].oneof) fields[count].slot = fields[i].slot;
    }
    if (JS_IsUndefined(message->type_name) && set_type_name(ctx, message)) return -1;
    struct field *kept = malloc((size_t)(count + 1) * sizeof *kept);
    if (!kept) {
        JS_ThrowOutOfMemory(ctx);
        return -1;
    }
    memcpy(kept, fields, (size_t)count * sizeof *kept);
    message->fields = kept;
    message->count = count;
    return 0;
}

struct message *message_of(JSContext *ctx, JSValueConst schema) {
    struct message *message = JS_GetOpaque2(ctx, schema, schema_class);
    return message && message_open(ctx, message) == 0 ? message : NULL;
}

static JSValue get_type_name(JSContext *ctx, JSValueConst self) {
    struct message *message = JS_GetOpaque2(ctx, self, schema_class);
    if (!message || (JS_IsUndefined(message->type_name) && set_type_name(ctx, message))) return JS_EXCEPTION;
    return JS_DupValue(ctx, message->type_name);
}

static const JSClassDef schema_definition = {.class_name = "MessageSchema"};
static const JSCFunctionListEntry schema_members[] = {JS_CGETSET_DEF("typeName", get_type_name, NULL)};

static int define_class(JSContext *ctx) {
    if (schema_class != 0) return 0;
    JS_NewClassID(&schema_class);
    if (JS_NewClass(JS_GetRuntime(ctx), schema_class, &schema_definition) < 0) return -1;
    JSValue prototype = JS_NewObject(ctx);
    if (JS_IsException(prototype)) return -1;
    JS_SetPropertyFunctionList(ctx, prototype, schema_members, SYS_COUNT(schema_members));
    JS_SetClassProto(ctx, schema_class, prototype);
    return 0;
}

static struct message *tables_of(const char *package, const char *text, int *count) {
    char *kept = strdup(text), *name = strdup(package);
    *count = 0;
    for (const char *c = text; *c; c++) *count += *c == '\n';
    struct message *file = calloc((size_t)*count + 1, sizeof *file);
    if (!kept || !name || !file) {
        free(kept);
        free(name);
        free(file);
        return NULL;
    }
    const char *line = kept;
    for (int i = 0; i < *count; i++, line = strchr(line, '\n') + 1)
        file[i] = (struct message){line, file, *count, name, NULL, 0, JS_UNDEFINED};
    return file;
}

JSValue js_message_schemas(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv) {
    SYS_UNUSED;
    SYS_ARG_STR(package, 0);
    SYS_ARG_STR(text, 1);
    if (define_class(ctx)) return JS_EXCEPTION;
    int count;
    struct message *file = tables_of(package.s, text.s, &count);
    if (!file) return JS_ThrowOutOfMemory(ctx);
    JSValue schemas = JS_NewArray(ctx);
    for (int i = 0; i < count && !JS_IsException(schemas); i++) {
        JSValue schema = JS_NewObjectClass(ctx, (int)schema_class);
        if (!JS_IsException(schema)) JS_SetOpaque(schema, &file[i]);
        if (JS_IsException(schema) || JS_SetPropertyUint32(ctx, schemas, (uint32_t)i, schema) < 0) {
            JS_FreeValue(ctx, schemas);
            schemas = JS_EXCEPTION;
        }
    }
    return schemas;
}
