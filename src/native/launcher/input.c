/* Reading what others wrote: files, the JSON of config.json, the protobuf on stdin. Nothing here trusts its input. */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "launcher.h"

bool read_all(int fd, size_t limit, struct bytes *out) {
  size_t size = 0, room = 64 << 10;
  unsigned char *data = malloc(room);
  while (data != NULL) {
    if (size == room) {
      unsigned char *larger = realloc(data, room *= 2);
      if (larger == NULL) break;
      data = larger;
    }
    ssize_t count = read(fd, data + size, room - size);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 || size + (size_t)count > limit) break;
    if (count == 0) {
      *out = (struct bytes){data, size};
      return true;
    }
    size += (size_t)count;
  }
  free(data);
  return false;
}

bool bytes_are(struct bytes text, const char *word) {
  return text.length == strlen(word) && memcmp(text.data, word, text.length) == 0;
}

static bool copy_text(struct bytes text, char *to, size_t size) {
  if (text.length >= size || memchr(text.data, 0, text.length) != NULL) return false;
  memcpy(to, text.data, text.length);
  to[text.length] = 0;
  return true;
}

/* ---- JSON (RFC 8259): a cursor that is set to NULL where the text is not as expected. ---- */

struct cursor {
  const unsigned char *at, *end;
};

static int peek(struct cursor *c) {
  while (c->at != NULL && c->at < c->end && strchr(" \t\r\n", *c->at) != NULL && *c->at != 0) c->at++;
  return c->at == NULL || c->at == c->end ? -1 : *c->at;
}

static bool take(struct cursor *c, int wanted) {
  if (peek(c) != wanted) return false;
  c->at++;
  return true;
}

/* The text between the quotes, escapes as they are. */
static struct bytes take_string(struct cursor *c) {
  if (!take(c, '"')) goto wrong;
  const unsigned char *begin = c->at;
  for (; c->at < c->end && *c->at != '"'; c->at++) {
    if (*c->at < 0x20) goto wrong;
    if (*c->at == '\\' && ++c->at == c->end) goto wrong;
  }
  if (c->at == c->end) goto wrong;
  return (struct bytes){begin, (size_t)(c->at++ - begin)};
wrong:
  c->at = NULL;
  return (struct bytes){NULL, 0};
}

/* Any value; of arrays and objects only that brackets and strings are balanced. */
static void skip_value(struct cursor *c) {
  size_t depth = 0;
  do {
    int next = peek(c);
    if (next < 0) {
      c->at = NULL;
      return;
    }
    if (next == '"') take_string(c);
    else {
      if (next == '{' || next == '[') depth++;
      else if ((next == '}' || next == ']') && depth-- == 0) c->at = NULL;
      if (c->at != NULL) c->at++;
      /* The rest of a number or of true, false and null. */
      while (c->at != NULL && depth == 0 && c->at < c->end && strchr("{}[]\", \t\r\n", *c->at) == NULL) c->at++;
    }
  } while (c->at != NULL && depth > 0);
}

/* The members of an object, one call each: true with the key taken and the value next. Keys with escapes are wrong:
   they could be any key, and what we look for has none. */
static bool next_member(struct cursor *c, bool *first, struct bytes *key) {
  if (*first ? !take(c, '{') : take(c, '}')) {
    if (*first) c->at = NULL;
    return false;
  }
  if (*first && take(c, '}')) return false;
  if (!*first && !take(c, ',')) {
    c->at = NULL;
    return false;
  }
  *first = false;
  *key = take_string(c);
  if (c->at != NULL && (memchr(key->data, '\\', key->length) != NULL || !take(c, ':'))) c->at = NULL;
  return c->at != NULL;
}

struct annotations {
  struct bytes containerd_type, crio_type, containerd_sandbox, crio_sandbox;
};

static struct bytes *annotation(struct annotations *all, struct bytes key) {
  if (bytes_are(key, "io.kubernetes.cri.container-type")) return &all->containerd_type;
  if (bytes_are(key, "io.kubernetes.cri-o.ContainerType")) return &all->crio_type;
  if (bytes_are(key, "io.kubernetes.cri.sandbox-id")) return &all->containerd_sandbox;
  if (bytes_are(key, "io.kubernetes.cri-o.SandboxID")) return &all->crio_sandbox;
  return NULL;
}

static void read_annotations(struct cursor *c, struct annotations *all) {
  struct bytes key;
  for (bool first = true; next_member(c, &first, &key);) {
    struct bytes *wanted = annotation(all, key);
    if (wanted == NULL) skip_value(c);
    else *wanted = take_string(c);
  }
}

enum role spec_role(struct bytes json, char *id, size_t size) {
  struct cursor c = {json.data, json.data + json.length};
  struct annotations all = {0};
  struct bytes key;
  for (bool first = true; next_member(&c, &first, &key);) {
    if (bytes_are(key, "annotations") && peek(&c) == '{') {
      all = (struct annotations){0};
      read_annotations(&c, &all);
    } else skip_value(&c);
  }
  if (c.at == NULL || peek(&c) >= 0) return ROLE_UNCLEAR;
  struct bytes type = all.containerd_type.length > 0 ? all.containerd_type : all.crio_type;
  struct bytes sandbox = all.containerd_sandbox.length > 0 ? all.containerd_sandbox : all.crio_sandbox;
  if (memchr(type.data == NULL ? (const void *)"" : type.data, '\\', type.length) != NULL) return ROLE_UNCLEAR;
  if (!bytes_are(type, "container") || sandbox.length == 0) return ROLE_OWN_SANDBOX;
  return copy_text(sandbox, id, size) ? ROLE_CONTAINER : ROLE_UNCLEAR;
}

/* ---- protobuf: messages with two fields of text or bytes, numbers 1 and 2. ---- */

/* https://protobuf.dev/programming-guides/encoding/: tags of fields 1 and 2 with a length. */
enum { TAG_1 = 0x0a, TAG_2 = 0x12 };

static bool two_fields(struct bytes message, struct bytes *one, struct bytes *two) {
  *one = *two = (struct bytes){(const unsigned char *)"", 0};
  for (size_t at = 0; at < message.length;) {
    unsigned char tag = message.data[at++];
    uint64_t length = 0;
    int shift = 0;
    do {
      if (at == message.length || shift > 28) return false;
      length |= (uint64_t)(message.data[at] & 0x7f) << shift;
      shift += 7;
    } while (message.data[at++] & 0x80);
    if ((tag != TAG_1 && tag != TAG_2) || length > message.length - at) return false;
    *(tag == TAG_1 ? one : two) = (struct bytes){message.data + at, length};
    at += length;
  }
  return true;
}

bool options_config_path(struct bytes input, char *path, size_t size) {
  static const char suffix[] = "runtimeoptions.v1.Options";
  struct bytes type, value, options_type, config;
  path[0] = 0;
  if (input.length == 0) return true;
  if (!two_fields(input, &type, &value) || type.length == 0) return false;
  if (type.length < sizeof suffix - 1 ||
      memcmp(type.data + type.length - (sizeof suffix - 1), suffix, sizeof suffix - 1) != 0)
    return true; /* options of another runtime */
  return two_fields(value, &options_type, &config) && copy_text(config, path, size);
}
