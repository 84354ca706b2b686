/* Reading and writing the protobuf wire format. */
#include "wire.h"

#include <stdlib.h>
#include <string.h>

/* Bytes of a 64-bit number, and of a 32-bit one. */
#define MAX_VARINT 10
#define MAX_VARINT32 5
/* Groups within groups, which nobody writes any more. */
#define MAX_GROUPS 100

static bool fail(struct wire_reader *reader, const char *error) {
    reader->error = error;
    return false;
}

bool wire_varint(struct wire_reader *reader, uint64_t *value) {
    uint64_t result = 0;
    for (int i = 0; i < MAX_VARINT; i++) {
        if (reader->at == reader->end) return fail(reader, "the message ends within a varint");
        uint8_t byte = *reader->at++;
        result |= (uint64_t)(byte & 0x7f) << (7 * i);
        if (byte & 0x80) continue;
        *value = result;
        return true;
    }
    return fail(reader, "a varint has more than ten bytes");
}

bool wire_tag(struct wire_reader *reader, uint32_t *number, enum wire_type *type) {
    const uint8_t *start = reader->at;
    uint64_t tag;
    if (!wire_varint(reader, &tag)) return false;
    *number = (uint32_t)(tag >> 3);
    *type = (enum wire_type)(tag & 7);
    if (tag > UINT32_MAX || reader->at - start > MAX_VARINT32) return fail(reader, "a tag has more than 32 bits");
    return (*number > 0 && *type <= WIRE_BIT32) || fail(reader, "a tag is illegal");
}

static bool pass(struct wire_reader *reader, size_t count) {
    if ((size_t)(reader->end - reader->at) < count) return fail(reader, "the message ends within a field");
    reader->at += count;
    return true;
}

bool wire_delimited(struct wire_reader *reader, struct wire_reader *part) {
    uint64_t length;
    if (!wire_varint(reader, &length)) return false;
    const uint8_t *start = reader->at;
    if (length > SIZE_MAX || !pass(reader, (size_t)length)) return fail(reader, "the message ends within a field");
    *part = (struct wire_reader){start, reader->at, NULL};
    return true;
}

static bool skip(struct wire_reader *reader, uint32_t number, enum wire_type type, int groups) {
    uint64_t ignored;
    struct wire_reader part;
    if (type == WIRE_VARINT) return wire_varint(reader, &ignored);
    if (type == WIRE_BIT64) return pass(reader, 8);
    if (type == WIRE_BIT32) return pass(reader, 4);
    if (type == WIRE_DELIMITED) return wire_delimited(reader, &part);
    if (type == WIRE_GROUP_END) return fail(reader, "a group ends that did not begin");
    if (groups == 0) return fail(reader, "groups nest too deeply");
    for (;;) {
        uint32_t inner;
        if (!wire_tag(reader, &inner, &type)) return false;
        if (type == WIRE_GROUP_END) return inner == number || fail(reader, "another group ends than the one that began");
        if (!skip(reader, inner, type, groups - 1)) return false;
    }
}

bool wire_skip(struct wire_reader *reader, uint32_t number, enum wire_type type) {
    return skip(reader, number, type, MAX_GROUPS);
}

/* `count` more bytes behind what is written; NULL when there is no memory. */
static uint8_t *room(struct wire_writer *writer, size_t count) {
    if (writer->failed) return NULL;
    if (writer->capacity - writer->length < count) {
        size_t capacity = 2 * (writer->length + count) + 64;
        uint8_t *larger = realloc(writer->data, capacity);
        if (!larger) {
            writer->failed = true;
            return NULL;
        }
        writer->data = larger;
        writer->capacity = capacity;
    }
    return writer->data + writer->length;
}

void wire_write(struct wire_writer *writer, const void *data, size_t length) {
    uint8_t *at = room(writer, length);
    if (!at) return;
    if (length > 0) memcpy(at, data, length);
    writer->length += length;
}

static size_t put_varint(uint8_t *at, uint64_t value) {
    size_t count = 0;
    for (; value > 0x7f; value >>= 7) at[count++] = (uint8_t)(value | 0x80);
    at[count++] = (uint8_t)value;
    return count;
}

void wire_write_varint(struct wire_writer *writer, uint64_t value) {
    uint8_t *at = room(writer, MAX_VARINT);
    if (at) writer->length += put_varint(at, value);
}

void wire_write_tag(struct wire_writer *writer, uint32_t number, enum wire_type type) {
    wire_write_varint(writer, (uint64_t)number << 3 | type);
}

size_t wire_begin(struct wire_writer *writer) {
    return writer->length;
}

/* The length goes ahead of the part, which moves. */
void wire_end(struct wire_writer *writer, size_t begun) {
    if (!room(writer, MAX_VARINT)) return;
    uint8_t prefix[MAX_VARINT], *start = writer->data + begun;
    size_t length = writer->length - begun, count = put_varint(prefix, length);
    memmove(start + count, start, length);
    memcpy(start, prefix, count);
    writer->length += count;
}
