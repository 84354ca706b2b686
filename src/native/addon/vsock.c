/* AF_VSOCK sockets (vsock(7)) and the two ioctls around them. All sockets are non-blocking with CLOEXEC. */
#include "addon.h"

#include <fcntl.h>
#include <linux/vhost.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <linux/vm_sockets.h>

static struct sockaddr_vm address_of(uint32_t cid, uint32_t port) {
  return (struct sockaddr_vm){.svm_family = AF_VSOCK, .svm_cid = cid, .svm_port = port};
}

static napi_value address_value(napi_env env, const struct sockaddr_vm *address) {
  napi_value value;
  napi_create_object(env, &value);
  caisson_set(env, value, "cid", caisson_number(env, address->svm_cid));
  caisson_set(env, value, "port", caisson_number(env, address->svm_port));
  return value;
}

/* vsockSocket(connectTimeoutMs): fd. The time limit is the kernel's own for connect; 0 leaves its default of 2 s. */
static napi_value vsock_socket(napi_env env, napi_callback_info info) {
  caisson_args args;
  uint32_t timeout_ms;
  if (!caisson_args_get(env, info, &args) || !caisson_arg_u32(&args, 0, "connectTimeoutMs", &timeout_ms)) return NULL;
  CAISSON_AUTO_CLOSE int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return caisson_throw(env, errno, "socket(AF_VSOCK)", NULL);
  if (timeout_ms > 0) {
    struct timeval timeout = {.tv_sec = timeout_ms / 1000, .tv_usec = (timeout_ms % 1000) * 1000};
    if (setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, &timeout, sizeof timeout) != 0)
      return caisson_throw(env, errno, "setsockopt(SO_VM_SOCKETS_CONNECT_TIMEOUT)", NULL);
  }
  int kept = fd;
  fd = -1;
  return caisson_number(env, kept);
}

/* vsockConnect(fd, cid, port): true when connected, false when it will be writable once it is known (socketError). */
static napi_value vsock_connect(napi_env env, napi_callback_info info) {
  caisson_args args;
  int fd;
  uint32_t cid, port;
  if (!caisson_args_get(env, info, &args) || !caisson_arg_fd(&args, 0, "fd", &fd) ||
      !caisson_arg_u32(&args, 1, "cid", &cid) || !caisson_arg_u32(&args, 2, "port", &port))
    return NULL;
  struct sockaddr_vm address = address_of(cid, port);
  if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0) return caisson_bool(env, true);
  /* An interrupted connect goes on in the background, as one in progress does (connect(2)). */
  if (errno == EINPROGRESS || errno == EINTR || errno == EALREADY) return caisson_bool(env, false);
  return caisson_throw(env, errno, "connect", NULL);
}

/* vsockListen(fd, cid, port, backlog): binds and listens; VMADDR_CID_ANY and VMADDR_PORT_ANY are 4294967295. */
static napi_value vsock_listen(napi_env env, napi_callback_info info) {
  caisson_args args;
  int fd, backlog;
  uint32_t cid, port;
  if (!caisson_args_get(env, info, &args) || !caisson_arg_fd(&args, 0, "fd", &fd) ||
      !caisson_arg_u32(&args, 1, "cid", &cid) || !caisson_arg_u32(&args, 2, "port", &port) ||
      !caisson_arg_int(&args, 3, "backlog", &backlog))
    return NULL;
  struct sockaddr_vm address = address_of(cid, port);
  if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0) return caisson_throw(env, errno, "bind", NULL);
  if (listen(fd, backlog) != 0) return caisson_throw(env, errno, "listen", NULL);
  return caisson_undefined(env);
}

/* vsockAddress(fd): {cid, port} of our own end. */
static napi_value vsock_address(napi_env env, napi_callback_info info) {
  caisson_args args;
  int fd;
  struct sockaddr_vm address = {0};
  socklen_t size = sizeof address;
  if (!caisson_args_get(env, info, &args) || !caisson_arg_fd(&args, 0, "fd", &fd)) return NULL;
  if (getsockname(fd, (struct sockaddr *)&address, &size) != 0) return caisson_throw(env, errno, "getsockname", NULL);
  return address_value(env, &address);
}

/*
 * acceptFd(fd): the descriptor of the next connection, null when none waits; works for any listening stream socket.
 * A connection that was given up before we took it is skipped.
 */
static napi_value accept_fd(napi_env env, napi_callback_info info) {
  caisson_args args;
  int fd, accepted;
  if (!caisson_args_get(env, info, &args) || !caisson_arg_fd(&args, 0, "fd", &fd)) return NULL;
  do {
    accepted = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
  } while (accepted < 0 && (errno == EINTR || errno == ECONNABORTED || errno == EPROTO));
  if (accepted >= 0) return caisson_number(env, accepted);
  return errno == EAGAIN || errno == EWOULDBLOCK ? caisson_null(env) : caisson_throw(env, errno, "accept4", NULL);
}

/* vsockPeer(fd): {cid, port} of the other end. */
static napi_value vsock_peer(napi_env env, napi_callback_info info) {
  caisson_args args;
  int fd;
  struct sockaddr_vm address = {0};
  socklen_t size = sizeof address;
  if (!caisson_args_get(env, info, &args) || !caisson_arg_fd(&args, 0, "fd", &fd)) return NULL;
  if (getpeername(fd, (struct sockaddr *)&address, &size) != 0) return caisson_throw(env, errno, "getpeername", NULL);
  if (address.svm_family != AF_VSOCK) return caisson_throw(env, EAFNOSUPPORT, "getpeername", NULL);
  return address_value(env, &address);
}

/* vsockLocalCid(): this machine's own CID, from /dev/vsock. */
static napi_value vsock_local_cid(napi_env env, napi_callback_info info) {
  (void)info;
  unsigned int cid = 0;
  CAISSON_AUTO_CLOSE int fd = (int)CAISSON_RETRY(open("/dev/vsock", O_RDONLY | O_CLOEXEC));
  if (fd < 0) return caisson_throw(env, errno, "open", "/dev/vsock");
  if (ioctl(fd, IOCTL_VM_SOCKETS_GET_LOCAL_CID, &cid) != 0)
    return caisson_throw(env, errno, "ioctl(IOCTL_VM_SOCKETS_GET_LOCAL_CID)", NULL);
  return caisson_number(env, cid);
}

/* vhostVsockSetCid(fd, cid): reserves the guest's CID on an open /dev/vhost-vsock; false when another guest has it. */
static napi_value vhost_vsock_set_cid(napi_env env, napi_callback_info info) {
  caisson_args args;
  int fd;
  uint32_t cid;
  if (!caisson_args_get(env, info, &args) || !caisson_arg_fd(&args, 0, "fd", &fd) ||
      !caisson_arg_u32(&args, 1, "cid", &cid))
    return NULL;
  uint64_t value = cid;
  if (ioctl(fd, VHOST_VSOCK_SET_GUEST_CID, &value) == 0) return caisson_bool(env, true);
  return errno == EADDRINUSE ? caisson_bool(env, false)
                             : caisson_throw(env, errno, "ioctl(VHOST_VSOCK_SET_GUEST_CID)", NULL);
}

void caisson_init_vsock(napi_env env, napi_value exports) {
  static const caisson_function functions[] = {
      {"vsockSocket", vsock_socket},
      {"vsockConnect", vsock_connect},
      {"vsockListen", vsock_listen},
      {"vsockAddress", vsock_address},
      {"acceptFd", accept_fd},
      {"vsockPeer", vsock_peer},
      {"vsockLocalCid", vsock_local_cid},
      {"vhostVsockSetCid", vhost_vsock_set_cid},
  };
  caisson_define(env, exports, functions, CAISSON_COUNT(functions));
}
