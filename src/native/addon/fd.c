/* Descriptors: non-blocking reads and writes, passing over unix sockets, memfd, locks. */
#include "addon.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>

/* SCM_MAX_FD of include/net/scm.h: what the kernel takes in one message. */
enum { MAX_FDS = 253 };

/* The part [offset, offset + length) of the bytes in argument `index`, given by the two arguments after it. */
static bool slice(const caisson_args *args, size_t index, uint8_t **data, size_t *length) {
  size_t total;
  uint32_t offset = 0, count;
  if (!caisson_arg_bytes(args, index, "bytes", data, &total) || !caisson_arg_u32(args, index + 1, "offset", &offset) ||
      !caisson_arg_u32(args, index + 2, "length", &count))
    return false;
  if (offset > total || count > total - offset) {
    napi_throw_range_error(args->env, "ERR_OUT_OF_RANGE", "offset and length go beyond the bytes");
    return false;
  }
  *data += offset;
  *length = count;
  return true;
}

/* The answer of a read or write: a count, or CAISSON_WOULD_BLOCK. */
static napi_value transferred(napi_env env, long result, const char *syscall) {
  if (result >= 0) return caisson_number(env, result);
  if (errno == EAGAIN || errno == EWOULDBLOCK) return caisson_number(env, CAISSON_WOULD_BLOCK);
  return caisson_throw(env, errno, syscall, NULL);
}

/* readFd(fd, bytes, offset, length): number; 0 is the end. */
static napi_value read_fd(napi_env env, napi_callback_info info) {
  caisson_args args;
  int fd;
  uint8_t *data;
  size_t length;
  if (!caisson_args_get(env, info, &args) || !caisson_arg_fd(&args, 0, "fd", &fd) || !slice(&args, 1, &data, &length))
    return NULL;
  return transferred(env, CAISSON_RETRY(read(fd, data, length)), "read");
}

/* writeFd(fd, bytes, offset, length): number. Node ignores SIGPIPE, so a reader that is gone is EPIPE. */
static napi_value write_fd(napi_env env, napi_callback_info info) {
  caisson_args args;
  int fd;
  uint8_t *data;
  size_t length;
  if (!caisson_args_get(env, info, &args) || !caisson_arg_fd(&args, 0, "fd", &fd) || !slice(&args, 1, &data, &length))
    return NULL;
  return transferred(env, CAISSON_RETRY(write(fd, data, length)), "write");
}

/* closeFd(fd). On Linux the descriptor is free whatever close(2) answers, so EINTR is no failure. */
static napi_value close_fd(napi_env env, napi_callback_info info) {
  caisson_args args;
  int fd;
  if (!caisson_args_get(env, info, &args) || !caisson_arg_fd(&args, 0, "fd", &fd)) return NULL;
  if (close(fd) != 0 && errno != EINTR) return caisson_throw(env, errno, "close", NULL);
  return caisson_undefined(env);
}

/* dupFd(fd): a descriptor with CLOEXEC, above the standard three. */
static napi_value dup_fd(napi_env env, napi_callback_info info) {
  caisson_args args;
  int fd;
  if (!caisson_args_get(env, info, &args) || !caisson_arg_fd(&args, 0, "fd", &fd)) return NULL;
  int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  return copy < 0 ? caisson_throw(env, errno, "fcntl(F_DUPFD_CLOEXEC)", NULL) : caisson_number(env, copy);
}

/* setCloexec(fd, on). */
static napi_value set_cloexec(napi_env env, napi_callback_info info) {
  caisson_args args;
  int fd;
  bool on;
  if (!caisson_args_get(env, info, &args) || !caisson_arg_fd(&args, 0, "fd", &fd) ||
      !caisson_arg_bool(&args, 1, "on", &on))
    return NULL;
  int flags = fcntl(fd, F_GETFD);
  if (flags < 0 || fcntl(fd, F_SETFD, on ? flags | FD_CLOEXEC : flags & ~FD_CLOEXEC) != 0)
    return caisson_throw(env, errno, "fcntl(F_SETFD)", NULL);
  return caisson_undefined(env);
}

/* openNonBlocking(path, flags, mode): open(2) with O_NONBLOCK, O_CLOEXEC and O_NOCTTY. */
static napi_value open_non_blocking(napi_env env, napi_callback_info info) {
  caisson_args args;
  CAISSON_AUTO_FREE char *path = NULL;
  int flags;
  uint32_t mode;
  if (!caisson_args_get(env, info, &args) || !caisson_arg_string(&args, 0, "path", &path) ||
      !caisson_arg_int(&args, 1, "flags", &flags) || !caisson_arg_u32(&args, 2, "mode", &mode))
    return NULL;
  long fd = CAISSON_RETRY(open(path, flags | O_NONBLOCK | O_CLOEXEC | O_NOCTTY, (mode_t)mode));
  return fd < 0 ? caisson_throw(env, errno, "open", path) : caisson_number(env, fd);
}

/* socketPair(): [fd, fd], AF_UNIX streams, non-blocking. */
static napi_value socket_pair(napi_env env, napi_callback_info info) {
  (void)info;
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) != 0)
    return caisson_throw(env, errno, "socketpair", NULL);
  napi_value pair;
  napi_create_array_with_length(env, 2, &pair);
  napi_set_element(env, pair, 0, caisson_number(env, fds[0]));
  napi_set_element(env, pair, 1, caisson_number(env, fds[1]));
  return pair;
}

/* pipe(): [read end, write end], non-blocking. */
static napi_value make_pipe(napi_env env, napi_callback_info info) {
  (void)info;
  int fds[2];
  if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) != 0) return caisson_throw(env, errno, "pipe2", NULL);
  napi_value pair;
  napi_create_array_with_length(env, 2, &pair);
  napi_set_element(env, pair, 0, caisson_number(env, fds[0]));
  napi_set_element(env, pair, 1, caisson_number(env, fds[1]));
  return pair;
}

/* shutdownSocket(fd, how): how is SHUT_RD 0, SHUT_WR 1, SHUT_RDWR 2. A peer that is gone is no failure. */
static napi_value shutdown_socket(napi_env env, napi_callback_info info) {
  caisson_args args;
  int fd, how;
  if (!caisson_args_get(env, info, &args) || !caisson_arg_fd(&args, 0, "fd", &fd) ||
      !caisson_arg_int(&args, 1, "how", &how))
    return NULL;
  if (shutdown(fd, how) != 0 && errno != ENOTCONN) return caisson_throw(env, errno, "shutdown", NULL);
  return caisson_undefined(env);
}

/* socketError(fd, syscall): throws the socket's pending error (SO_ERROR) as of `syscall`, and clears it. */
static napi_value socket_error(napi_env env, napi_callback_info info) {
  caisson_args args;
  CAISSON_AUTO_FREE char *syscall = NULL;
  int fd, error = 0;
  socklen_t size = sizeof error;
  if (!caisson_args_get(env, info, &args) || !caisson_arg_fd(&args, 0, "fd", &fd) ||
      !caisson_arg_string(&args, 1, "syscall", &syscall))
    return NULL;
  if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0)
    return caisson_throw(env, errno, "getsockopt(SO_ERROR)", NULL);
  return error != 0 ? caisson_throw(env, error, syscall, NULL) : caisson_undefined(env);
}

/*
 * sendWithFds(socket, bytes, offset, length, fds): number of bytes taken. The descriptors travel with the first of
 * them, so after a short count the rest goes without. `length` must be at least 1 when there are descriptors.
 */
static napi_value send_with_fds(napi_env env, napi_callback_info info) {
  caisson_args args;
  int socket_fd, fds[MAX_FDS];
  uint8_t *data;
  size_t length, count;
  if (!caisson_args_get(env, info, &args) || !caisson_arg_fd(&args, 0, "socket", &socket_fd) ||
      !slice(&args, 1, &data, &length) || !caisson_arg_fds(&args, 4, "fds", fds, MAX_FDS, &count))
    return NULL;
  if (length == 0 && count > 0) {
    napi_throw_range_error(env, "ERR_OUT_OF_RANGE", "descriptors can only travel with at least one byte");
    return NULL;
  }
  struct iovec vector = {.iov_base = data, .iov_len = length};
  struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
  _Alignas(struct cmsghdr) uint8_t control[CMSG_SPACE(sizeof fds)];
  if (count > 0) {
    memset(control, 0, sizeof control);
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(count * sizeof(int));
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(header), fds, count * sizeof(int));
  }
  return transferred(env, CAISSON_RETRY(sendmsg(socket_fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT)), "sendmsg");
}

/* The descriptors of a received message, closed again when they do not fit. @returns their number, -1 on truncation */
static long take_fds(struct msghdr *message, int *fds) {
  size_t count = 0;
  for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header != NULL; header = CMSG_NXTHDR(message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    size_t here = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    if (here > MAX_FDS - count) here = MAX_FDS - count; /* the kernel never sends more in one message */
    memcpy(fds + count, CMSG_DATA(header), here * sizeof(int));
    count += here;
  }
  if ((message->msg_flags & MSG_CTRUNC) == 0) return (long)count;
  for (size_t i = 0; i < count; i++) close(fds[i]);
  return -1;
}

/* receiveWithFds(socket, bytes, offset, length): {bytesRead, fds}; the descriptors have CLOEXEC and are the caller's. */
static napi_value receive_with_fds(napi_env env, napi_callback_info info) {
  caisson_args args;
  int socket_fd, fds[MAX_FDS];
  uint8_t *data;
  size_t length;
  if (!caisson_args_get(env, info, &args) || !caisson_arg_fd(&args, 0, "socket", &socket_fd) ||
      !slice(&args, 1, &data, &length))
    return NULL;
  struct iovec vector = {.iov_base = data, .iov_len = length};
  _Alignas(struct cmsghdr) uint8_t control[CMSG_SPACE(sizeof fds)];
  struct msghdr message = {
      .msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  long received = CAISSON_RETRY(recvmsg(socket_fd, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT));
  long count = 0;
  if (received < 0) {
    if (errno != EAGAIN && errno != EWOULDBLOCK) return caisson_throw(env, errno, "recvmsg", NULL);
    received = CAISSON_WOULD_BLOCK;
  } else {
    count = take_fds(&message, fds);
    if (count < 0) return caisson_throw(env, EMSGSIZE, "recvmsg", NULL);
  }
  napi_value result, list;
  napi_create_object(env, &result);
  napi_create_array_with_length(env, (size_t)count, &list);
  for (long i = 0; i < count; i++) napi_set_element(env, list, (uint32_t)i, caisson_number(env, fds[i]));
  caisson_set(env, result, "bytesRead", caisson_number(env, received));
  caisson_set(env, result, "fds", list);
  return result;
}

/* memfdCreate(name, sealing): an empty memory file; with `sealing` it can be sealed later. */
static napi_value memfd(napi_env env, napi_callback_info info) {
  caisson_args args;
  CAISSON_AUTO_FREE char *name = NULL;
  bool sealing;
  if (!caisson_args_get(env, info, &args) || !caisson_arg_string(&args, 0, "name", &name) ||
      !caisson_arg_bool(&args, 1, "sealing", &sealing))
    return NULL;
  int fd = memfd_create(name, MFD_CLOEXEC | (sealing ? MFD_ALLOW_SEALING : 0));
  return fd < 0 ? caisson_throw(env, errno, "memfd_create", name) : caisson_number(env, fd);
}

/* sealMemfd(fd, seals): F_ADD_SEALS with F_SEAL_* of fcntl.h. */
static napi_value seal_memfd(napi_env env, napi_callback_info info) {
  caisson_args args;
  int fd, seals;
  if (!caisson_args_get(env, info, &args) || !caisson_arg_fd(&args, 0, "fd", &fd) ||
      !caisson_arg_int(&args, 1, "seals", &seals))
    return NULL;
  if (fcntl(fd, F_ADD_SEALS, seals) != 0) return caisson_throw(env, errno, "fcntl(F_ADD_SEALS)", NULL);
  return caisson_undefined(env);
}

/* tryLock(fd, exclusive): flock(2) without waiting; false when somebody else holds it. */
static napi_value try_lock(napi_env env, napi_callback_info info) {
  caisson_args args;
  int fd;
  bool exclusive;
  if (!caisson_args_get(env, info, &args) || !caisson_arg_fd(&args, 0, "fd", &fd) ||
      !caisson_arg_bool(&args, 1, "exclusive", &exclusive))
    return NULL;
  if (CAISSON_RETRY(flock(fd, (exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB)) == 0) return caisson_bool(env, true);
  return errno == EWOULDBLOCK ? caisson_bool(env, false) : caisson_throw(env, errno, "flock", NULL);
}

typedef struct {
  caisson_job job;
  char *path;
  bool exclusive;
  int fd;
} lock_job;

static void lock_run(caisson_job *job) {
  lock_job *self = (lock_job *)job;
  self->fd = (int)CAISSON_RETRY(open(self->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (self->fd < 0 && errno == EISDIR)
    self->fd = (int)CAISSON_RETRY(open(self->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
  if (self->fd < 0) {
    caisson_job_fail(job, errno, "open", self->path);
    return;
  }
  if (CAISSON_RETRY(flock(self->fd, self->exclusive ? LOCK_EX : LOCK_SH)) != 0)
    caisson_job_fail(job, errno, "flock", self->path);
}

static napi_value lock_result(napi_env env, caisson_job *job) {
  lock_job *self = (lock_job *)job;
  int fd = self->fd;
  self->fd = -1;
  return caisson_number(env, fd);
}

static void lock_destroy(caisson_job *job) {
  lock_job *self = (lock_job *)job;
  if (self->fd >= 0) close(self->fd);
  free(self->path);
  free(self);
}

/* lockFile(path, exclusive): a promise of a descriptor that holds the lock until it is closed. Waits as long as it takes. */
static napi_value lock_file(napi_env env, napi_callback_info info) {
  caisson_args args;
  CAISSON_AUTO_FREE char *path = NULL;
  bool exclusive;
  if (!caisson_args_get(env, info, &args) || !caisson_arg_string(&args, 0, "path", &path) ||
      !caisson_arg_bool(&args, 1, "exclusive", &exclusive))
    return NULL;
  lock_job *self = calloc(1, sizeof *self);
  if (self == NULL) return caisson_throw(env, ENOMEM, "malloc", NULL);
  self->job = (caisson_job){.run = lock_run, .result = lock_result, .destroy = lock_destroy};
  self->path = path;
  path = NULL;
  self->exclusive = exclusive;
  self->fd = -1;
  return caisson_job_start(env, &self->job);
}

void caisson_init_fd(napi_env env, napi_value exports) {
  static const caisson_function functions[] = {
      {"readFd", read_fd},
      {"writeFd", write_fd},
      {"closeFd", close_fd},
      {"dupFd", dup_fd},
      {"setCloexec", set_cloexec},
      {"openNonBlocking", open_non_blocking},
      {"socketPair", socket_pair},
      {"pipe", make_pipe},
      {"shutdownSocket", shutdown_socket},
      {"socketError", socket_error},
      {"sendWithFds", send_with_fds},
      {"receiveWithFds", receive_with_fds},
      {"memfdCreate", memfd},
      {"sealMemfd", seal_memfd},
      {"tryLock", try_lock},
      {"lockFile", lock_file},
  };
  caisson_define(env, exports, functions, CAISSON_COUNT(functions));
  caisson_define_constant(env, exports, "WOULD_BLOCK", CAISSON_WOULD_BLOCK);
}
