/* Bytes with descriptors attached (SCM_RIGHTS, unix(7)). */
#ifndef CAISSON_PASSING_H
#define CAISSON_PASSING_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define MAX_PASSED 8

/* Bytes sent, or -1 with errno; never EINTR, no SIGPIPE. */
int64_t send_with(int socket, struct iovec *parts, size_t part_count, const int *fds, int count);
/*
 * Bytes read, or -1 with errno; `flags` as for recvmsg. The descriptors are close-on-exec; `*count` is their number, at
 * most MAX_PASSED.
 */
int64_t receive_with(int socket, void *data, size_t length, int flags, int *fds, int *count);

#endif
