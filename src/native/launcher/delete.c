/*
 * `delete` of a container that has left nothing, which is how most of them end: containerd runs `delete` for each, also
 * where the shim has removed everything itself, and for all pods of a node at once when it drains. What is looked for, and
 * the answer, are those of src/shim/delete.ts.
 */
#define _GNU_SOURCE
#include "launcher.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* Exit status of a container that its shim's death has ended: 128 + SIGKILL. */
#define KILLED 137
/* A host with thousands of sockets has some 100 bytes of text for each. */
#define UNIX_SOCKETS_LIMIT (16u << 20)
#define EXIT_RECORD_LIMIT 256

static const char *run_root(void) {
  const char *root = getenv("CAISSON_RUN_ROOT");
  return root != NULL ? root : "/run/caisson";
}

static bool absent(const char *path) {
  struct stat file;
  return lstat(path, &file) != 0 && (errno == ENOENT || errno == ENOTDIR);
}

/* Whether `path` could be read into `out`; `missing` says whether it is not there. */
static bool read_file(const char *path, size_t limit, struct bytes *out, bool *missing) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  *missing = fd < 0 && errno == ENOENT;
  bool read = fd >= 0 && read_all(fd, limit, out);
  if (fd >= 0) close(fd);
  return read;
}

/* The socket that `start` noted in the bundle is the usual one, or none is noted. */
static bool usual_socket(const struct subject *subject, const char *usual) {
  char path[PATH_MAX], address[PATH_MAX + sizeof "unix://"];
  struct bytes noted;
  bool missing;
  if (snprintf(path, sizeof path, "%s/address", subject->bundle) >= (int)sizeof path) return false;
  if (!read_file(path, PATH_MAX, &noted, &missing)) return missing;
  snprintf(address, sizeof address, "unix://%s", usual);
  return bytes_are(noted, address);
}

/* Whether each socket of ours has somebody who listens: those of shims that died are swept up by any `delete`. */
static bool no_dead_socket(void) {
  struct bytes bound = {NULL, 0};
  bool missing, clean = true;
  DIR *sockets = opendir(SOCKET_DIR);
  if (sockets == NULL) return errno == ENOENT;
  for (struct dirent *entry; clean && (entry = readdir(sockets)) != NULL;) {
    if (strncmp(entry->d_name, SOCKET_PREFIX, sizeof SOCKET_PREFIX - 1) != 0) continue;
    if (bound.data == NULL && !read_file("/proc/net/unix", UNIX_SOCKETS_LIMIT, &bound, &missing)) clean = false;
    else clean = memmem(bound.data, bound.length, entry->d_name, strlen(entry->d_name)) != NULL;
  }
  closedir(sockets);
  return clean;
}

/* Whether nobody makes a sandbox's directory now, or died as he did (src/persist/run-dir.ts, makeSandboxDir). */
static bool no_unfinished_directory(void) {
  static const char making[] = ".new-";
  DIR *root = opendir(run_root());
  if (root == NULL) return errno == ENOENT;
  struct dirent *entry;
  while ((entry = readdir(root)) != NULL && strncmp(entry->d_name, making, sizeof making - 1) != 0) continue;
  closedir(root);
  return entry == NULL;
}

static bool removed(const struct subject *subject) {
  char path[PATH_MAX];
  /* The first 48 bytes of the id and 8 digits (sandboxDir); the container's directory is below that of its sandbox. */
  int length = snprintf(path, sizeof path, "%s/%.48s-%.8s", run_root(), subject->sandbox, subject->identity);
  if (length < 0 || (size_t)length >= sizeof path - MAX_IDENTIFIER - sizeof "/shared/") return false;
  if (!subject->own_sandbox) {
    sprintf(path + length, "/shared/%s", subject->id);
    return absent(path);
  }
  if (!absent(path)) return false;
  snprintf(path, sizeof path, SOCKET_DIR "/" SOCKET_PREFIX "%s", subject->identity);
  return absent(path) && usual_socket(subject, path) && no_dead_socket() && no_unfinished_directory();
}

/* How the container ended, as the shim has noted it (src/shim/bundle.ts, writeExit); `KILLED` now, where it has not. */
static bool recorded_exit(const char *bundle, unsigned *status, time_t *exited_at) {
  char path[PATH_MAX], text[EXIT_RECORD_LIMIT + 1];
  struct bytes record;
  bool missing;
  if (snprintf(path, sizeof path, "%s/caisson-exit.json", bundle) >= (int)sizeof path) return false;
  *status = KILLED;
  *exited_at = time(NULL);
  if (!read_file(path, EXIT_RECORD_LIMIT, &record, &missing)) return missing;
  memcpy(text, record.data, record.length);
  text[record.length] = 0;
  struct tm at = {0};
  int end = 0;
  int fields = sscanf(text, "{\"status\":%9u,\"exitedAt\":\"%4d-%2d-%2dT%2d:%2d:%2d.%*3[0-9]Z\"}%n", status, &at.tm_year,
                      &at.tm_mon, &at.tm_mday, &at.tm_hour, &at.tm_min, &at.tm_sec, &end);
  if (fields != 7 || end == 0 || (size_t)end != record.length) return false;
  at.tm_year -= 1900;
  at.tm_mon -= 1;
  *exited_at = timegm(&at);
  return *exited_at >= 0;
}

/* https://protobuf.dev/programming-guides/encoding/#varints */
static unsigned char *put_varint(unsigned char *to, uint64_t value) {
  for (; value >= 0x80; value >>= 7) *to++ = (unsigned char)(value | 0x80);
  *to++ = (unsigned char)value;
  return to;
}

/* DeleteResponse { exit_status = 2, exited_at = 3 (Timestamp { seconds = 1 }) } of containerd.task.v2. */
static size_t encode(unsigned char *answer, unsigned status, time_t exited_at) {
  unsigned char timestamp[DELETE_RESPONSE_LIMIT] = {0x08};
  size_t length = (size_t)(put_varint(timestamp + 1, (uint64_t)exited_at) - timestamp);
  *answer = 0x10;
  unsigned char *at = put_varint(answer + 1, status);
  *at++ = 0x1a;
  *at++ = (unsigned char)length;
  memcpy(at, timestamp, length);
  return (size_t)(at + length - answer);
}

bool nothing_left(const struct subject *subject, unsigned char answer[DELETE_RESPONSE_LIMIT], size_t *length) {
  unsigned status;
  time_t exited_at;
  if (!removed(subject) || !recorded_exit(subject->bundle, &status, &exited_at)) return false;
  *length = encode(answer, status, exited_at);
  return true;
}
