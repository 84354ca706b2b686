/*
 * The protobuf wire format below messages (protobuf.dev/programming-guides/encoding): tags, varints, lengths. Knows nothing of
 * JavaScript.
 */
#ifndef CAISSON_WIRE_H
#define CAISSON_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum wire_type { WIRE_VARINT = 0, WIRE_BIT64 = 1, WIRE_DELIMITED = 2, WIRE_GROUP = 3, WIRE_GROUP_END = 4, WIRE_BIT32 = 5 };

/* What is left to read of hostile bytes. */
struct wire_reader {
    const uint8_t *at, *end;
    const char *error; /* why the last call was false */
};

/* Each is false, with `error`, where the bytes are malformed or end too early. */
bool wire_varint(struct wire_reader *reader, uint64_t *value);
bool wire_tag(struct wire_reader *reader, uint32_t *number, enum wire_type *type);
/* `part` is what a length announces; the reader goes on behind it. */
bool wire_delimited(struct wire_reader *reader, struct wire_reader *part);
/* Passes over the value behind a tag. */
bool wire_skip(struct wire_reader *reader, uint32_t number, enum wire_type type);

struct wire_writer {
    uint8_t *data; /* the caller frees it */
    size_t length, capacity;
    bool failed; /* no memory; what is written from then on is lost */
};

void wire_write(struct wire_writer *writer, const void *data, size_t length);
void wire_write_varint(struct wire_writer *writer, uint64_t value);
void wire_write_tag(struct wire_writer *writer, uint32_t number, enum wire_type type);
/* Around a part whose length is known at its end only: takes what begin() returned. */
size_t wire_begin(struct wire_writer *writer);
void wire_end(struct wire_writer *writer, size_t begun);

#endif
