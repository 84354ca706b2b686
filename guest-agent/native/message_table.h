/*
 * Tables of protobuf messages, which the build writes (schema-plugin.mjs) and src/proto/messages.ts explains. In JavaScript a
 * message type is an object of the class MessageSchema with `typeName`. Tables are never freed.
 */
#ifndef CAISSON_MESSAGE_TABLE_H
#define CAISSON_MESSAGE_TABLE_H

#include "sys.h"

/* FieldDescriptorProto.Type of descriptor.proto */
enum field_type {
    FIELD_INT64 = 3,
    FIELD_UINT64 = 4,
    FIELD_INT32 = 5,
    FIELD_BOOL = 8,
    FIELD_STRING = 9,
    FIELD_MESSAGE = 11,
    FIELD_BYTES = 12,
    FIELD_UINT32 = 13,
    FIELD_ENUM = 14,
};
enum field_rule { RULE_SINGLE, RULE_REPEATED, RULE_MAP };

/* Fields of one message. */
#define MAX_FIELDS 64

struct field {
    uint32_t number;
    enum field_type type; /* of a map: of its values */
    enum field_rule rule;
    JSAtom name;
    JSAtom oneof;             /* JS_ATOM_NULL: none */
    int slot;                 /* its place among the fields; of a oneof: that of the first of its fields */
    struct message *message; /* of a FIELD_MESSAGE */
};

struct message {
    const char *text;     /* its line */
    struct message *file; /* all messages of its file */
    int file_count;
    const char *package;
    struct field *fields; /* NULL until the first use */
    int count;
    JSValue type_name;
};

/* messageSchemas(package, text): the message types of a file */
JSValue js_message_schemas(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv);
/* With its fields; NULL with a pending exception. */
struct message *message_of(JSContext *ctx, JSValueConst schema);
/* Reads the fields of a message at its first use; -1 with a pending exception. */
int message_open(JSContext *ctx, struct message *message);

#endif
