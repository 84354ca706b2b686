/* Protobuf messages from bytes, which may be anything, and with their defaults. See src/proto/messages.ts. */
#include "message_codec.h"
#include "wire.h"

/* Messages within messages. */
#define MAX_DEPTH 100

static JSValue new_view(JSContext *ctx, JSValueConst buffer, size_t offset, size_t length) {
    JSValue arguments[] = {buffer, JS_NewInt64(ctx, (int64_t)offset), JS_NewInt64(ctx, (int64_t)length)};
    return JS_NewTypedArray(ctx, 3, arguments, JS_TYPED_ARRAY_UINT8);
}

static JSValue zero(JSContext *ctx, enum field_type type) {
    if (type == FIELD_STRING) return JS_NewStringLen(ctx, "", 0);
    if (type == FIELD_BOOL) return JS_FALSE;
    if (type == FIELD_UINT64 || type == FIELD_INT64) return JS_NewBigInt64(ctx, 0);
    if (type != FIELD_BYTES) return JS_NewInt32(ctx, 0);
    JSValue arguments[] = {JS_NewInt32(ctx, 0), JS_UNDEFINED, JS_UNDEFINED};
    return JS_NewTypedArray(ctx, 3, arguments, JS_TYPED_ARRAY_UINT8);
}

static JSValue absent(JSContext *ctx, const struct field *field) {
    if (field->oneof != JS_ATOM_NULL) return oneof_value(ctx, NULL, JS_UNDEFINED);
    if (field->rule == RULE_REPEATED) return JS_NewArray(ctx);
    if (field->rule == RULE_MAP) return JS_NewObject(ctx);
    return field->type == FIELD_MESSAGE ? JS_UNDEFINED : zero(ctx, field->type);
}

void free_slots(JSContext *ctx, const struct message *message, JSValue *slots) {
    for (int i = 0; i < message->count; i++) JS_FreeValue(ctx, slots[i]);
}

JSValue oneof_value(JSContext *ctx, const struct field *field, JSValue value) {
    JSValue object = JS_NewObject(ctx);
    if (JS_IsException(object)) {
        JS_FreeValue(ctx, value);
        return object;
    }
    JSValue chosen = field ? JS_AtomToString(ctx, field->name) : JS_UNDEFINED;
    if (JS_DefinePropertyValueStr(ctx, object, "case", chosen, JS_PROP_C_W_E) >= 0 &&
        (!field || JS_DefinePropertyValueStr(ctx, object, "value", JS_DupValue(ctx, value), JS_PROP_C_W_E) >= 0)) {
        JS_FreeValue(ctx, value);
        return object;
    }
    JS_FreeValue(ctx, value);
    JS_FreeValue(ctx, object);
    return JS_EXCEPTION;
}

JSValue message_object(JSContext *ctx, const struct message *message, JSValue *slots) {
    JSValue object = JS_NewObject(ctx);
    bool failed = JS_IsException(object);
    failed = failed || JS_DefinePropertyValueStr(ctx, object, "$typeName", JS_DupValue(ctx, message->type_name),
                                                 JS_PROP_C_W_E) < 0;
    for (int i = 0; i < message->count; i++) {
        const struct field *field = &message->fields[i];
        JSValue value = slots[i];
        slots[i] = JS_UNDEFINED;
        if (!failed && field->slot == i && JS_IsUndefined(value)) {
            value = absent(ctx, field);
            failed = JS_IsException(value);
        }
        JSAtom name = field->oneof == JS_ATOM_NULL ? field->name : field->oneof;
        if (failed || JS_IsUndefined(value)) JS_FreeValue(ctx, value);
        else failed = JS_DefinePropertyValue(ctx, object, name, value, JS_PROP_C_W_E) < 0;
    }
    if (!failed) return object;
    JS_FreeValue(ctx, object);
    return JS_EXCEPTION;
}

/* The bytes that are decoded: `buffer` is theirs, and `base` its first byte. */
struct source {
    JSContext *ctx;
    JSValueConst buffer;
    const uint8_t *base;
};

static JSValue malformed(const struct source *source, const struct wire_reader *reader) {
    return JS_ThrowRangeError(source->ctx, "%s", reader->error);
}

static JSValue read_message(const struct source *source, struct wire_reader reader, struct message *message, int depth);

static JSValue read_delimited(const struct source *source, struct wire_reader *reader, const struct field *field,
                              int depth) {
    struct wire_reader part;
    if (!wire_delimited(reader, &part)) return malformed(source, reader);
    size_t length = (size_t)(part.end - part.at);
    if (field->type == FIELD_STRING) return JS_NewStringLen(source->ctx, (const char *)part.at, length);
    if (field->type == FIELD_BYTES) return new_view(source->ctx, source->buffer, (size_t)(part.at - source->base), length);
    return read_message(source, part, field->message, depth - 1);
}

static bool is_delimited(enum field_type type) {
    return type == FIELD_STRING || type == FIELD_BYTES || type == FIELD_MESSAGE;
}

static JSValue read_value(const struct source *source, struct wire_reader *reader, const struct field *field, int depth) {
    if (is_delimited(field->type)) return read_delimited(source, reader, field, depth);
    uint64_t value;
    if (!wire_varint(reader, &value)) return malformed(source, reader);
    switch (field->type) {
    case FIELD_BOOL: return JS_NewBool(source->ctx, value != 0);
    case FIELD_UINT64: return JS_NewBigUint64(source->ctx, value);
    case FIELD_INT64: return JS_NewBigInt64(source->ctx, (int64_t)value);
    case FIELD_UINT32: return JS_NewUint32(source->ctx, (uint32_t)value);
    default: return JS_NewInt32(source->ctx, (int32_t)(uint32_t)value);
    }
}

/* Sets the entry of a map whose bytes are `reader`; -1 with an exception. */
static int read_entry(const struct source *source, struct wire_reader reader, const struct field *field, JSValueConst map) {
    JSContext *ctx = source->ctx;
    struct wire_reader key = {reader.at, reader.at, NULL};
    JSValue value = JS_UNDEFINED;
    while (reader.at < reader.end) {
        uint32_t number;
        enum wire_type type;
        bool read = wire_tag(&reader, &number, &type);
        if (read && number == 1 && type == WIRE_DELIMITED) read = wire_delimited(&reader, &key);
        else if (read && number == 2 && type == (is_delimited(field->type) ? WIRE_DELIMITED : WIRE_VARINT)) {
            JS_FreeValue(ctx, value);
            value = read_value(source, &reader, field, 0);
            if (JS_IsException(value)) return -1;
        } else read = read && wire_skip(&reader, number, type);
        if (read) continue;
        JS_FreeValue(ctx, value);
        malformed(source, &reader);
        return -1;
    }
    if (JS_IsUndefined(value)) value = zero(ctx, field->type);
    JSAtom name = JS_NewAtomLen(ctx, (const char *)key.at, (size_t)(key.end - key.at));
    if (name == JS_ATOM_NULL) {
        JS_FreeValue(ctx, value);
        return -1;
    }
    /* Never through a setter of Object.prototype. */
    int outcome = JS_DefinePropertyValue(ctx, map, name, value, JS_PROP_C_W_E);
    JS_FreeAtom(ctx, name);
    return outcome < 0 ? -1 : 0;
}

static int read_item(const struct source *source, struct wire_reader *reader, const struct field *field, JSValue *slot,
                     uint32_t index, int depth) {
    JSContext *ctx = source->ctx;
    if (JS_IsUndefined(*slot)) *slot = field->rule == RULE_MAP ? JS_NewObject(ctx) : JS_NewArray(ctx);
    if (JS_IsException(*slot)) return -1;
    if (field->rule == RULE_MAP) {
        struct wire_reader entry;
        if (wire_delimited(reader, &entry)) return read_entry(source, entry, field, *slot);
        malformed(source, reader);
        return -1;
    }
    JSValue item = read_value(source, reader, field, depth);
    if (JS_IsException(item)) return -1;
    return JS_DefinePropertyValueUint32(ctx, *slot, index, item, JS_PROP_C_W_E) < 0 ? -1 : 0;
}

static int read_field(const struct source *source, struct wire_reader *reader, const struct field *field, JSValue *slots,
                      uint32_t *counts, int depth) {
    JSContext *ctx = source->ctx;
    JSValue *slot = &slots[field->slot];
    if (field->rule != RULE_SINGLE) return read_item(source, reader, field, slot, counts[field->slot]++, depth);
    JSValue value = read_value(source, reader, field, depth);
    if (!JS_IsException(value) && field->oneof != JS_ATOM_NULL) value = oneof_value(ctx, field, value);
    if (JS_IsException(value)) return -1;
    JS_FreeValue(ctx, *slot);
    *slot = value;
    return 0;
}

static const struct field *field_of(const struct message *message, uint32_t number, enum wire_type type) {
    for (int i = 0; i < message->count; i++) {
        const struct field *field = &message->fields[i];
        if (field->number != number) continue;
        bool delimited = field->rule == RULE_MAP || is_delimited(field->type);
        return type == (delimited ? WIRE_DELIMITED : WIRE_VARINT) ? field : NULL;
    }
    return NULL;
}

static JSValue read_message(const struct source *source, struct wire_reader reader, struct message *message, int depth) {
    JSContext *ctx = source->ctx;
    if (depth == 0) return JS_ThrowRangeError(ctx, "messages nest too deeply");
    if (message_open(ctx, message)) return JS_EXCEPTION;
    JSValue slots[MAX_FIELDS];
    uint32_t counts[MAX_FIELDS];
    for (int i = 0; i < message->count; i++) slots[i] = JS_UNDEFINED, counts[i] = 0;
    while (reader.at < reader.end) {
        uint32_t number;
        enum wire_type type;
        bool read = wire_tag(&reader, &number, &type);
        const struct field *field = read ? field_of(message, number, type) : NULL;
        if (field && read_field(source, &reader, field, slots, counts, depth) == 0) continue;
        if (!field && read && wire_skip(&reader, number, type)) continue;
        free_slots(ctx, message, slots);
        return field ? JS_EXCEPTION : malformed(source, &reader);
    }
    return message_object(ctx, message, slots);
}

JSValue js_decode_message(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv) {
    SYS_UNUSED;
    struct message *message = message_of(ctx, argv[0]);
    if (!message) return JS_EXCEPTION;
    size_t offset, length, size;
    JSValue buffer = JS_GetTypedArrayBuffer(ctx, argv[1], &offset, &length, NULL);
    if (JS_IsException(buffer)) return JS_EXCEPTION;
    const uint8_t *base = JS_GetArrayBuffer(ctx, &size, buffer);
    JSValue decoded = JS_EXCEPTION;
    if (base && offset <= size && length <= size - offset) {
        struct source source = {ctx, buffer, base};
        decoded = read_message(&source, (struct wire_reader){base + offset, base + offset + length, NULL}, message, MAX_DEPTH);
    } else if (base) JS_ThrowRangeError(ctx, "the view lies outside of its buffer");
    JS_FreeValue(ctx, buffer);
    return decoded;
}
