/* What the codec's files share: create(), decode() and encode() of src/proto/messages.ts. */
#ifndef CAISSON_MESSAGE_CODEC_H
#define CAISSON_MESSAGE_CODEC_H

#include "message_table.h"

/*
 * The message whose values stand in `slots`, as many as it has fields, those of a oneof in the first one's; undefined is a default.
 * Takes the slots.
 */
JSValue message_object(JSContext *ctx, const struct message *message, JSValue *slots);
void free_slots(JSContext *ctx, const struct message *message, JSValue *slots);
/* { case, value }; of no field { case: undefined }. Takes the value. */
JSValue oneof_value(JSContext *ctx, const struct field *field, JSValue value);

/* decodeMessage(schema, bytes); byte fields are views of them. RangeError when they are malformed. */
JSValue js_decode_message(JSContext *ctx, JSValueConst self, int argc, JSValueConst *argv);

#endif
