/*
 * Whether Node may start from the snapshot of the server's heap (scripts/code-cache.mjs). Node refuses one of another
 * build, flags or processor, and ends; `start` has long been answered then. So the snapshot has a key beside it, which says
 * what it was made of, and is taken only where the same text comes out.
 */
#define _GNU_SOURCE
#include "launcher.h"

#include <cpuid.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define KEY_LIMIT (3 * PATH_MAX)

/* As execvp(3) finds it. */
static bool find_in_path(const char *name, char *path) {
  if (strchr(name, '/') != NULL) return snprintf(path, PATH_MAX, "%s", name) < PATH_MAX;
  const char *at = getenv("PATH");
  for (; at != NULL && *at != 0; at += *at == ':') {
    size_t length = strcspn(at, ":");
    int written = snprintf(path, PATH_MAX, "%.*s/%s", (int)length, at, name);
    if (length > 0 && written < PATH_MAX && access(path, X_OK) == 0) return true;
    at += length;
  }
  return false;
}

/* A file as the one that it was: replaced, it has another time or size. */
static bool add_file(FILE *out, const char *path) {
  struct stat file;
  char real[PATH_MAX];
  if (realpath(path, real) == NULL || stat(real, &file) != 0) return false;
  fprintf(out, "%s %jd %jd.%09ld\n", real, (intmax_t)file.st_size, (intmax_t)file.st_mtim.tv_sec, file.st_mtim.tv_nsec);
  return true;
}

/* What V8 looks at to know the processor: its kind (leaf 1, eax) and features. The rest of leaf 1's ebx names a core. */
static void add_processor(FILE *out) {
  unsigned a, b, c, d;
  if (__get_cpuid(1, &a, &b, &c, &d)) fprintf(out, "%x %x %x", a, c, d);
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) fprintf(out, " %x %x %x", b, c, d);
  if (__get_cpuid(0x80000001, &a, &b, &c, &d)) fprintf(out, " %x %x", c, d);
  fputc('\n', out);
}

bool snapshot_key(const char *root, const char *node, char **key) {
  char path[PATH_MAX], source[PATH_MAX + 64];
  size_t length;
  FILE *out = open_memstream(key, &length);
  if (out == NULL) return false;
  snprintf(source, sizeof source, "%s/lib/shim-server.js", root);
  bool known = find_in_path(node, path) && add_file(out, path) && add_file(out, source);
  add_processor(out);
  return fclose(out) == 0 && known;
}

bool snapshot_usable(const char *root, const char *node, char *blob, size_t size) {
  char path[PATH_MAX + 80], *key = NULL;
  struct bytes stored;
  if (getenv("NODE_OPTIONS") != NULL) return false;
  if (snprintf(blob, size, "%s/lib/shim-server.snapshot", root) >= (int)size || access(blob, R_OK) != 0) return false;
  snprintf(path, sizeof path, "%s.key", blob);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  bool usable = fd >= 0 && read_all(fd, KEY_LIMIT, &stored) && snapshot_key(root, node, &key) && bytes_are(stored, key);
  if (fd >= 0) close(fd);
  free(key);
  return usable;
}
