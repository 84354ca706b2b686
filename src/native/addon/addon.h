/*
 * What every capability file of the addon uses.
 *
 * The addon is mechanism only: a call takes numbers, strings and byte arrays, makes one system call or a fixed short
 * sequence of them, and gives a number, a descriptor or bytes, or throws an Error with `code` ("ENOENT"), `errno`
 * (negative, as Node has it) and `syscall`. Policy is in TypeScript.
 *
 * A new capability is a new file `<name>.c` with a function `void caisson_init_<name>(napi_env, napi_value exports)`
 * that calls caisson_define(), and one line in CAPABILITIES (addon.c).
 *
 * Rules: descriptors are made with CLOEXEC. EINTR is retried in C; EAGAIN leaves C only as CAISSON_WOULD_BLOCK. What
 * may block, or changes the namespace or the working directory of a thread, runs as a caisson_job, each on a thread of
 * its own, never on the event loop and never in libuv's pool, where four hung mounts would stop all file access.
 */
#ifndef CAISSON_ADDON_H
#define CAISSON_ADDON_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#ifndef NAPI_VERSION
#define NAPI_VERSION 8
#endif
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <node_api.h>
#include <uv.h>

/* What a read, write, accept or receive answers instead of failing with EAGAIN. */
#define CAISSON_WOULD_BLOCK (-1)

/* ---- Definition of functions ------------------------------------------------------------------------------- */

typedef struct {
  const char *name; /* property of the addon's exports */
  napi_callback call;
} caisson_function;

/* Puts the functions on the exports object. */
void caisson_define(napi_env env, napi_value exports, const caisson_function *functions, size_t count);

/* Puts an integer constant on the exports object. */
void caisson_define_constant(napi_env env, napi_value exports, const char *name, int64_t value);

#define CAISSON_COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* ---- Errors ------------------------------------------------------------------------------------------------ */

/*
 * Throws {code, errno, syscall}; the message is "<CODE>: <text>, <syscall> [<subject>]". `errnum` is positive.
 * Returns NULL, so that a callback can `return caisson_throw(...)`.
 */
napi_value caisson_throw(napi_env env, int errnum, const char *syscall, const char *subject);

/* The same error as a value, e.g. to reject a promise with. */
napi_value caisson_error(napi_env env, int errnum, const char *syscall, const char *subject);

/* ---- Arguments: each getter answers false with a TypeError pending ------------------------------------------- */

#define CAISSON_MAX_ARGS 10

typedef struct {
  napi_env env;
  size_t count; /* as the caller gave, at most CAISSON_MAX_ARGS; the rest of `value` is undefined */
  napi_value value[CAISSON_MAX_ARGS];
} caisson_args;

bool caisson_args_get(napi_env env, napi_callback_info info, caisson_args *args);
bool caisson_arg_int(const caisson_args *args, size_t index, const char *name, int *out);
bool caisson_arg_u32(const caisson_args *args, size_t index, const char *name, uint32_t *out);
/* A non-negative safe integer or a BigInt. */
bool caisson_arg_u64(const caisson_args *args, size_t index, const char *name, uint64_t *out);
/* An integer >= 0. */
bool caisson_arg_fd(const caisson_args *args, size_t index, const char *name, int *out);
bool caisson_arg_bool(const caisson_args *args, size_t index, const char *name, bool *out);
/* UTF-8, NUL-terminated, without a NUL inside; the caller frees it (CAISSON_AUTO_FREE). */
bool caisson_arg_string(const caisson_args *args, size_t index, const char *name, char **out);
/* As above; NULL for null and undefined. */
bool caisson_arg_optional_string(const caisson_args *args, size_t index, const char *name, char **out);
/* A Uint8Array (or Buffer): a view, valid until the callback returns to JavaScript. */
bool caisson_arg_bytes(const caisson_args *args, size_t index, const char *name, uint8_t **data, size_t *length);
/* An array of descriptors, at most `max`. */
bool caisson_arg_fds(const caisson_args *args, size_t index, const char *name, int *out, size_t max, size_t *count);

/* ---- Results ----------------------------------------------------------------------------------------------- */

napi_value caisson_undefined(napi_env env);
napi_value caisson_null(napi_env env);
napi_value caisson_bool(napi_env env, bool value);
/* Any integer that a double holds exactly. */
napi_value caisson_number(napi_env env, int64_t value);
void caisson_set(napi_env env, napi_value object, const char *name, napi_value value);

/* ---- Resources --------------------------------------------------------------------------------------------- */

void caisson_auto_free_pointer(void *slot);
void caisson_auto_close_fd(int *fd);
/* On a local `char *p = NULL`: freed when it goes out of scope. */
#define CAISSON_AUTO_FREE __attribute__((cleanup(caisson_auto_free_pointer)))
/* On a local `int fd = -1`: closed, errno kept, when it goes out of scope; set it to -1 to keep the descriptor. */
#define CAISSON_AUTO_CLOSE __attribute__((cleanup(caisson_auto_close_fd)))
/* Repeats a system call as long as it answers -1 with EINTR. */
#define CAISSON_RETRY(expression)                     \
  (__extension__({                                    \
    long caisson_result_;                             \
    do {                                              \
      caisson_result_ = (long)(expression);           \
    } while (caisson_result_ == -1 && errno == EINTR); \
    caisson_result_;                                  \
  }))

/* ---- Jobs: work on a thread of its own, answered by a promise ------------------------------------------------- */

typedef struct caisson_job caisson_job;
struct caisson_job {
  /*
   * On the job's own thread, with all signals blocked; no Node-API call. The thread ends afterwards, so it may enter
   * namespaces (setns), unshare(CLONE_FS) and chdir. Reports failure with caisson_job_fail().
   */
  void (*run)(caisson_job *job);
  /* On the event loop after a run that did not fail: the promise's value. NULL for undefined. */
  napi_value (*result)(napi_env env, caisson_job *job);
  /*
   * Frees the job and all it holds: always called, exactly once, on either thread. A descriptor that result() did not
   * hand over must be closed here (the environment may have ended meanwhile).
   */
  void (*destroy)(caisson_job *job);
  /* Set by caisson_job_fail(). */
  int failed;          /* errno, 0 when the run succeeded */
  const char *syscall; /* a literal */
  char subject[256];   /* a path or "" */
  /* Private to addon.c. */
  void *owner;
  napi_deferred deferred;
  caisson_job *next;
};

/* Notes the failure of run(): `errnum` positive, `syscall` a literal, `subject` a path, or NULL. */
void caisson_job_fail(caisson_job *job, int errnum, const char *syscall, const char *subject);

/* Starts the job and returns its promise. Owns the job from here on, also on failure (then throws, returns NULL). */
napi_value caisson_job_start(napi_env env, caisson_job *job);

/* ---- For files that own libuv handles (watcher.c) ------------------------------------------------------------- */

typedef struct caisson_handle caisson_handle;
/* Embedded in a structure with a libuv handle: addon.c calls close() when the environment ends. */
struct caisson_handle {
  void (*close)(caisson_handle *handle); /* starts uv_close(); idempotent */
  caisson_handle *previous, *next;
  void *owner;
};
/* False when the environment is ending. */
bool caisson_handle_add(napi_env env, caisson_handle *handle);
/* To be called from the uv_close callback. */
void caisson_handle_remove(caisson_handle *handle);
/* Calls a JavaScript function from a libuv callback; what it throws becomes an uncaught exception. */
void caisson_call(napi_env env, napi_ref function, size_t count, napi_value *arguments);

#endif
