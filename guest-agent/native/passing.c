/* Sending and receiving descriptors; see passing.h. */
#include "passing.h"
#include "sys.h"

#include <sys/socket.h>

union control {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(MAX_PASSED * sizeof(int))];
};

int64_t send_with(int socket, struct iovec *parts, size_t part_count, const int *fds, int count) {
    union control control = {0};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = part_count};
    if (count > 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE((size_t)count * sizeof(int));
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN((size_t)count * sizeof(int));
        memcpy(CMSG_DATA(header), fds, (size_t)count * sizeof(int));
    }
    return SYS_RETRY(sendmsg(socket, &message, MSG_NOSIGNAL));
}

int64_t receive_with(int socket, void *data, size_t length, int flags, int *fds, int *count) {
    union control control;
    struct iovec vector = {data, length};
    struct msghdr message = {
        .msg_iov = &vector, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    *count = 0;
    int64_t got = SYS_RETRY(recvmsg(socket, &message, flags | MSG_CMSG_CLOEXEC));
    if (got < 0) return got;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
        int passed = (int)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(fds + *count, CMSG_DATA(header), (size_t)passed * sizeof(int));
        *count += passed;
    }
    return got;
}
