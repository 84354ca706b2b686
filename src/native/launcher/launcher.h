/* The parts of containerd-shim-caisson-v2: what it must read to answer `start` and `delete` (main.c). */
#ifndef CAISSON_LAUNCHER_H
#define CAISSON_LAUNCHER_H

#include <stdbool.h>
#include <stddef.h>

#define SOCKET_DIR "/run/containerd/s"
/* Tells our sockets there from those of other shims (src/persist/run-dir.ts). */
#define SOCKET_PREFIX "caisson-"
/* The longest of containerd's identifiers (src/shim/arguments.ts). */
#define MAX_IDENTIFIER 76
/* As src/shim/read-stdin.ts; a config.json is far smaller. */
#define INPUT_LIMIT (10u << 20)

/* The container that a verb is about, and the sandbox that it is in or is. */
struct subject {
  const char *id, *bundle, *sandbox;
  bool own_sandbox;
  char identity[65]; /* of the sandbox (src/persist/run-dir.ts, identityHash) */
};

/* Bytes of what somebody else wrote. */
struct bytes {
  const unsigned char *data;
  size_t length;
};

/* All of `fd` up to `limit` bytes, in memory of malloc. False when there is more, or reading or memory fails. */
bool read_all(int fd, size_t limit, struct bytes *out);

/* Whether `text` is the C string `word`. */
bool bytes_are(struct bytes text, const char *word);

/* What the annotations of a config.json say (src/oci/annotations.ts). */
enum role { ROLE_UNCLEAR, ROLE_OWN_SANDBOX, ROLE_CONTAINER };

/*
 * The role of a bundle's container, and for ROLE_CONTAINER its sandbox's id in `id`, of `size` bytes.
 * ROLE_UNCLEAR for what is not JSON of the plain kind that container engines write.
 */
enum role spec_role(struct bytes json, char *id, size_t size);

/*
 * The ConfigPath of the runtime options on stdin, "" for none (src/shim/bootstrap.ts, runtimeConfigPath). False when
 * stdin holds something else than nothing or an Any of options: BootstrapParams, say.
 */
bool options_config_path(struct bytes input, char *path, size_t size);

/*
 * Whether `node`, a path or a name in PATH, may start from the snapshot of the server of the program below `root`, whose
 * path is put into `blob` then, of `size` bytes.
 */
bool snapshot_usable(const char *root, const char *node, char *blob, size_t size);

/* What a snapshot that `node` makes now is for, as a text in memory of malloc. False when a part of it is missing. */
bool snapshot_key(const char *root, const char *node, char **key);

/*
 * Whether `delete` of `subject` has nothing to undo, and the DeleteResponse is in `answer` then
 * (src/shim/delete.ts). Changes nothing. False also where something is in doubt.
 */
#define DELETE_RESPONSE_LIMIT 32
bool nothing_left(const struct subject *subject, unsigned char answer[DELETE_RESPONSE_LIMIT], size_t *length);

/* FIPS 180-4, as 64 hex digits and a zero. */
void sha256_hex(const void *data, size_t length, char hex[65]);

#endif
