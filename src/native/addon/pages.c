/* Copies of memory from file to file: only pages in which something is. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "addon.h"

#define PAGE 4096

typedef struct {
  caisson_job job;
  int from, to;
  int64_t copied;
} copy_job;

static bool is_empty(const uint64_t *page) {
  for (size_t i = 0; i < PAGE / sizeof *page; i++)
    if (page[i] != 0) return false;
  return true;
}

static bool write_all(copy_job *self, const uint8_t *bytes, size_t length, off_t offset) {
  self->copied += (int64_t)length;
  while (length > 0) {
    ssize_t written = CAISSON_RETRY(pwrite(self->to, bytes, length, offset));
    if (written < 0) {
      caisson_job_fail(&self->job, errno, "pwrite", NULL);
      return false;
    }
    bytes += written;
    length -= (size_t)written;
    offset += written;
  }
  return true;
}

/* `start` and `end` are those of pages. */
static bool copy_segment(copy_job *self, off_t start, off_t end) {
  size_t length = (size_t)(end - start);
  uint8_t *bytes = mmap(NULL, length, PROT_READ, MAP_SHARED, self->from, start);
  if (bytes == MAP_FAILED) {
    caisson_job_fail(&self->job, errno, "mmap", NULL);
    return false;
  }
  bool good = true;
  for (size_t at = 0; at < length && good;) {
    size_t stop = at;
    while (stop < length && !is_empty((const uint64_t *)(bytes + stop))) stop += PAGE;
    if (stop > at) good = write_all(self, bytes + at, stop - at, start + (off_t)at);
    at = stop + PAGE;
  }
  munmap(bytes, length);
  return good;
}

static void copy_run(caisson_job *job) {
  copy_job *self = (copy_job *)job;
  struct stat source;
  if (fstat(self->from, &source) != 0) return caisson_job_fail(job, errno, "fstat", NULL);
  if (ftruncate(self->to, source.st_size) != 0) return caisson_job_fail(job, errno, "ftruncate", NULL);
  for (off_t at = 0; at < source.st_size;) {
    off_t data = lseek(self->from, at, SEEK_DATA);
    if (data < 0 && errno == ENXIO) return;
    off_t hole = data < 0 ? -1 : lseek(self->from, data, SEEK_HOLE);
    if (hole < 0) return caisson_job_fail(job, errno, "lseek", NULL);
    at = hole + (PAGE - hole % PAGE) % PAGE;
    if (!copy_segment(self, data - data % PAGE, at < source.st_size ? at : source.st_size)) return;
  }
}

static napi_value copy_result(napi_env env, caisson_job *job) {
  return caisson_number(env, ((copy_job *)job)->copied);
}

static void copy_destroy(caisson_job *job) {
  copy_job *self = (copy_job *)job;
  if (self->from >= 0) close(self->from);
  if (self->to >= 0) close(self->to);
  free(self);
}

/*
 * copyPages(from, to): a promise of the bytes copied. `to` becomes as long as `from`, a whole number of pages; what is empty in
 * `from` is not touched in it. Moves the offset of `from`.
 */
static napi_value copy_pages(napi_env env, napi_callback_info info) {
  caisson_args args;
  int from, to;
  if (!caisson_args_get(env, info, &args) || !caisson_arg_fd(&args, 0, "from", &from) ||
      !caisson_arg_fd(&args, 1, "to", &to))
    return NULL;
  copy_job *self = calloc(1, sizeof *self);
  if (self == NULL) return caisson_throw(env, ENOMEM, "malloc", NULL);
  self->job = (caisson_job){.run = copy_run, .result = copy_result, .destroy = copy_destroy};
  /* Copies: the caller may close its own meanwhile. */
  self->from = fcntl(from, F_DUPFD_CLOEXEC, 3);
  self->to = fcntl(to, F_DUPFD_CLOEXEC, 3);
  if (self->from < 0 || self->to < 0) {
    int errnum = errno;
    copy_destroy(&self->job);
    return caisson_throw(env, errnum, "fcntl", NULL);
  }
  return caisson_job_start(env, &self->job);
}

void caisson_init_pages(napi_env env, napi_value exports) {
  static const caisson_function functions[] = {{"copyPages", copy_pages}};
  caisson_define(env, exports, functions, CAISSON_COUNT(functions));
}
