/* Protobuf messages from values and to bytes: fields in the order of the table, defaults left out (proto3). */
#include "message_codec.h"
#include "wire.h"

#include <math.h>

static void free_value(JSContext *ctx, JSValue *value) {
    JS_FreeValue(ctx, *value);
    *value = JS_UNDEFINED;
}

static int64_t length_of(JSContext *ctx, JSValueConst list) {
    int64_t length;
    JSValue value = JS_GetPropertyStr(ctx, list, "length");
    int failed = JS_IsException(value) || JS_ToInt64(ctx, &length, value);
    JS_FreeValue(ctx, value);
    return failed ? -1 : length;
}

/* 1 when the oneof has chosen this field, 0 when not; -1 with an exception. */
static int is_chosen(JSContext *ctx, const struct field *field, JSValueConst oneof) {
    if (JS_IsUndefined(oneof)) return 0;
    JSValue chosen = JS_GetPropertyStr(ctx, oneof, "case");
    if (JS_IsException(chosen)) return -1;
    if (!JS_IsString(chosen)) {
        JS_FreeValue(ctx, chosen);
        return 0;
    }
    JSAtom name = JS_ValueToAtom(ctx, chosen);
    JS_FreeValue(ctx, chosen);
    JS_FreeAtom(ctx, name);
    return name == JS_ATOM_NULL ? -1 : name == field->name;
}

/* ---- create ---- */

static JSValue create(JSContext *ctx, struct message *message, JSValueConst init);

static JSValue create_list(JSContext *ctx, struct message *message, JSValueConst given) {
    int64_t length = length_of(ctx, given);
    JSValue list = length < 0 ? JS_EXCEPTION : JS_NewArray(ctx);
    for (int64_t i = 0; i < length && !JS_IsException(list); i++) {
        JSValue init = JS_GetPropertyUint32(ctx, given, (uint32_t)i);
        JSValue item = JS_IsException(init) ? JS_EXCEPTION : create(ctx, message, init);
        JS_FreeValue(ctx, init);
        if (!JS_IsException(item) && JS_DefinePropertyValueUint32(ctx, list, (uint32_t)i, item, JS_PROP_C_W_E) >= 0) continue;
        free_value(ctx, &list);
        list = JS_EXCEPTION;
    }
    return list;
}

static JSValue create_value(JSContext *ctx, const struct field *field, JSValueConst given) {
    if (!field->message || JS_IsUndefined(given)) return JS_DupValue(ctx, given);
    return field->rule == RULE_REPEATED ? create_list(ctx, field->message, given) : create(ctx, field->message, given);
}

static JSValue create_chosen(JSContext *ctx, const struct field *field, JSValueConst oneof) {
    JSValue given = JS_GetPropertyStr(ctx, oneof, "value");
    JSValue value = JS_IsException(given) ? given : create_value(ctx, field, given);
    JS_FreeValue(ctx, given);
    return JS_IsException(value) ? value : oneof_value(ctx, field, value);
}

static int create_slot(JSContext *ctx, const struct field *field, JSValueConst init, JSValue *slots) {
    bool chooses = field->oneof != JS_ATOM_NULL;
    JSValue given = JS_GetProperty(ctx, init, chooses ? field->oneof : field->name), value = JS_UNDEFINED;
    if (JS_IsException(given)) return -1;
    int chosen = chooses ? is_chosen(ctx, field, given) : 0;
    if (chosen > 0) value = create_chosen(ctx, field, given);
    else if (!chooses) value = create_value(ctx, field, given);
    JS_FreeValue(ctx, given);
    if (chosen < 0 || JS_IsException(value)) return -1;
    if (JS_IsUndefined(value)) return 0;
    JS_FreeValue(ctx, slots[field->slot]);
    slots[field->slot] = value;
    return 0;
}

/* 1 when `init` is a message of this type already; -1 with an exception. */
static int is_message(JSContext *ctx, const struct message *message, JSValueConst init) {
    JSValue name = JS_GetPropertyStr(ctx, init, "$typeName");
    if (JS_IsException(name)) return -1;
    int same = JS_IsString(name) && JS_StrictEq(ctx, name, message->type_name);
    JS_FreeValue(ctx, name);
    return same;
}

static JSValue create(JSContext *ctx, struct message *message, JSValueConst init) {
    if (message_open(ctx, message)) return JS_EXCEPTION;
    JSValue slots[MAX_FIELDS];
    for (int i = 0; i < message->count; i++) slots[i] = JS_UNDEFINED;
    if (JS_IsUndefined(init)) return message_object(ctx, message, slots);
    int ready = is_message(ctx, message, init);
    if (ready != 0) return ready < 0 ? JS_EXCEPTION : JS_DupValue(ctx, init);
    for (int i = 0; i < message->count; i++) {
        if (create_slot(ctx, &message->fields[i], init, slots) == 0) continue;
        free_slots(ctx, message, slots);
        return JS_EXCEPTION;
    }
    return message_object(ctx, message, slots);
}

/* createMessage(schema, init): a message is returned as it is */
SYS_IMPL(js_create_message) {
    SYS_UNUSED;
    struct message *message = message_of(ctx, argv[0]);
    return message ? create(ctx, message, argv[1]) : JS_EXCEPTION;
}

/* ---- encode ---- */

static int write_message(JSContext *ctx, struct wire_writer *writer, struct message *message, JSValueConst value);

/* An integer from `least` to `greatest`; -1 with an exception. */
static int integer(JSContext *ctx, JSValueConst value, double least, double greatest, int64_t *out) {
    double number;
    if (!JS_IsNumber(value) || JS_ToFloat64(ctx, &number, value)) {
        JS_ThrowTypeError(ctx, "a number is expected");
        return -1;
    }
    if (number != trunc(number) || !(number >= least && number <= greatest)) {
        JS_ThrowRangeError(ctx, "%g is no integer of 32 bits", number);
        return -1;
    }
    *out = (int64_t)number;
    return 0;
}

static int big_integer(JSContext *ctx, JSValueConst value, bool is_signed, int64_t *out) {
    if (!JS_IsBigInt(ctx, value)) {
        JS_ThrowTypeError(ctx, "a BigInt is expected");
        return -1;
    }
    if (JS_ToBigInt64(ctx, out, value)) return -1;
    JSValue kept = is_signed ? JS_NewBigInt64(ctx, *out) : JS_NewBigUint64(ctx, (uint64_t)*out);
    int same = !JS_IsException(kept) && JS_StrictEq(ctx, kept, value);
    JS_FreeValue(ctx, kept);
    if (!same) JS_ThrowRangeError(ctx, "a BigInt has more than 64 bits");
    return same ? 0 : -1;
}

static int as_varint(JSContext *ctx, enum field_type type, JSValueConst value, int64_t *out) {
    switch (type) {
    case FIELD_BOOL: *out = JS_ToBool(ctx, value); return *out < 0 ? -1 : 0;
    case FIELD_UINT64: return big_integer(ctx, value, false, out);
    case FIELD_INT64: return big_integer(ctx, value, true, out);
    case FIELD_UINT32: return integer(ctx, value, 0, UINT32_MAX, out);
    default: return integer(ctx, value, INT32_MIN, INT32_MAX, out);
    }
}

static void write_bytes(struct wire_writer *writer, uint32_t number, const void *data, size_t length) {
    wire_write_tag(writer, number, WIRE_DELIMITED);
    wire_write_varint(writer, length);
    wire_write(writer, data, length);
}

/* `keep_default` writes a default too, as repeated fields, map entries and oneofs need it. */
static int write_value(JSContext *ctx, struct wire_writer *writer, uint32_t number, const struct field *field,
                       JSValueConst value, bool keep_default) {
    if (field->type == FIELD_MESSAGE) {
        wire_write_tag(writer, number, WIRE_DELIMITED);
        size_t begun = wire_begin(writer);
        if (write_message(ctx, writer, field->message, value)) return -1;
        wire_end(writer, begun);
    } else if (field->type == FIELD_STRING) {
        size_t length;
        if (!JS_IsString(value)) return JS_ThrowTypeError(ctx, "a string is expected"), -1;
        const char *text = JS_ToCStringLen(ctx, &length, value);
        if (!text) return -1;
        if (keep_default || length > 0) write_bytes(writer, number, text, length);
        JS_FreeCString(ctx, text);
    } else if (field->type == FIELD_BYTES) {
        struct sys_buf bytes;
        if (sys_buf(ctx, value, &bytes)) return -1;
        if (keep_default || bytes.length > 0) write_bytes(writer, number, bytes.data, bytes.length);
    } else {
        int64_t varint;
        if (as_varint(ctx, field->type, value, &varint)) return -1;
        if (!keep_default && varint == 0) return 0;
        wire_write_tag(writer, number, WIRE_VARINT);
        wire_write_varint(writer, (uint64_t)varint);
    }
    return 0;
}

static int write_list(JSContext *ctx, struct wire_writer *writer, const struct field *field, JSValueConst list) {
    int64_t length = length_of(ctx, list);
    int failed = length < 0;
    for (int64_t i = 0; i < length && !failed; i++) {
        JSValue item = JS_GetPropertyUint32(ctx, list, (uint32_t)i);
        failed = JS_IsException(item) || write_value(ctx, writer, field->number, field, item, true);
        JS_FreeValue(ctx, item);
    }
    return failed ? -1 : 0;
}

static int write_entry(JSContext *ctx, struct wire_writer *writer, const struct field *field, JSValueConst map,
                       JSAtom name) {
    size_t length;
    JSValue key = JS_AtomToString(ctx, name), value = JS_GetProperty(ctx, map, name);
    const char *text = JS_IsException(key) ? NULL : JS_ToCStringLen(ctx, &length, key);
    int failed = !text || JS_IsException(value);
    if (!failed) {
        wire_write_tag(writer, field->number, WIRE_DELIMITED);
        size_t begun = wire_begin(writer);
        write_bytes(writer, 1, text, length);
        failed = write_value(ctx, writer, 2, field, value, true);
        wire_end(writer, begun);
    }
    JS_FreeCString(ctx, text);
    JS_FreeValue(ctx, key);
    JS_FreeValue(ctx, value);
    return failed ? -1 : 0;
}

static int write_map(JSContext *ctx, struct wire_writer *writer, const struct field *field, JSValueConst map) {
    JSPropertyEnum *names;
    uint32_t count;
    if (JS_GetOwnPropertyNames(ctx, &names, &count, map, JS_GPN_STRING_MASK | JS_GPN_ENUM_ONLY)) return -1;
    int failed = 0;
    for (uint32_t i = 0; i < count; i++) {
        failed = failed || write_entry(ctx, writer, field, map, names[i].atom);
        JS_FreeAtom(ctx, names[i].atom);
    }
    js_free(ctx, names);
    return failed ? -1 : 0;
}

static int write_chosen(JSContext *ctx, struct wire_writer *writer, const struct field *field, JSValueConst oneof) {
    int chosen = is_chosen(ctx, field, oneof);
    if (chosen <= 0) return chosen;
    JSValue value = JS_GetPropertyStr(ctx, oneof, "value");
    int failed = JS_IsException(value) || write_value(ctx, writer, field->number, field, value, true);
    JS_FreeValue(ctx, value);
    return failed ? -1 : 0;
}

static int write_field(JSContext *ctx, struct wire_writer *writer, const struct field *field, JSValueConst value) {
    if (JS_IsUndefined(value)) return 0;
    if (field->oneof != JS_ATOM_NULL) return write_chosen(ctx, writer, field, value);
    if (field->rule == RULE_REPEATED) return write_list(ctx, writer, field, value);
    if (field->rule == RULE_MAP) return write_map(ctx, writer, field, value);
    return write_value(ctx, writer, field->number, field, value, false);
}

static int write_message(JSContext *ctx, struct wire_writer *writer, struct message *message, JSValueConst value) {
    if (message_open(ctx, message)) return -1;
    for (int i = 0; i < message->count; i++) {
        const struct field *field = &message->fields[i];
        JSValue member = JS_GetProperty(ctx, value, field->oneof == JS_ATOM_NULL ? field->name : field->oneof);
        int failed = JS_IsException(member) || write_field(ctx, writer, field, member);
        JS_FreeValue(ctx, member);
        if (failed) return -1;
    }
    return 0;
}

/* encodeMessage(schema, message, reserve): behind as many zero bytes */
SYS_IMPL(js_encode_message) {
    SYS_UNUSED;
    static const uint8_t zeros[16];
    struct message *message = message_of(ctx, argv[0]);
    int reserve = 0;
    if (!message || (!JS_IsUndefined(argv[2]) && sys_i32(ctx, argv[2], &reserve))) return JS_EXCEPTION;
    if (reserve < 0 || reserve > (int)sizeof zeros) return JS_ThrowRangeError(ctx, "so much cannot be reserved");
    struct wire_writer writer = {0};
    wire_write(&writer, zeros, (size_t)reserve);
    JSValue result = JS_EXCEPTION;
    if (write_message(ctx, &writer, message, argv[1]) == 0)
        result = writer.failed ? JS_ThrowOutOfMemory(ctx) : JS_NewArrayBufferCopy(ctx, writer.data, writer.length);
    free(writer.data);
    if (JS_IsException(result)) return result;
    JSValue arguments[] = {result, JS_UNDEFINED, JS_UNDEFINED};
    JSValue view = JS_NewTypedArray(ctx, 3, arguments, JS_TYPED_ARRAY_UINT8);
    JS_FreeValue(ctx, result);
    return view;
}

static const JSCFunctionListEntry message_functions[] = {
    SYS_FN("messageSchemas", 2, js_message_schemas),
    SYS_FN("createMessage", 2, js_create_message),
    SYS_FN("encodeMessage", 3, js_encode_message),
    SYS_FN("decodeMessage", 2, js_decode_message),
};
SYS_TABLE(message_functions)
