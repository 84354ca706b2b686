/*
 * What busybox has not, or not without a name service: an echo server on UDP, one question to it, one HTTP request.
 * net-tool serve PORT | ask ADDRESS PORT TEXT | get ADDRESS PORT PATH
 */
#include <arpa/inet.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

/* Answers each datagram in capitals, from a socket of both families. */
static int serve(int port) {
    int fd = socket(AF_INET6, SOCK_DGRAM, 0), off = 0;
    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    struct sockaddr_in6 own = {.sin6_family = AF_INET6, .sin6_port = htons((unsigned short)port)};
    if (fd < 0 || bind(fd, (struct sockaddr *)&own, sizeof own)) return perror("bind"), 1;
    for (;;) {
        char text[2048];
        struct sockaddr_in6 peer;
        socklen_t length = sizeof peer;
        ssize_t got = recvfrom(fd, text, sizeof text, 0, (struct sockaddr *)&peer, &length);
        if (got < 0) return perror("recvfrom"), 1;
        for (ssize_t i = 0; i < got; i++) text[i] = (char)toupper((unsigned char)text[i]);
        sendto(fd, text, (size_t)got, 0, (struct sockaddr *)&peer, length);
    }
}

struct peer {
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } of;
    socklen_t length;
};

static struct peer peer_of(const char *address, int port) {
    struct peer peer = {.length = sizeof(struct sockaddr_in)};
    peer.of.v4.sin_family = AF_INET;
    peer.of.v4.sin_port = htons((unsigned short)port);
    void *target = &peer.of.v4.sin_addr;
    if (strchr(address, ':')) {
        peer.of.v6.sin6_family = AF_INET6;
        peer.length = sizeof(struct sockaddr_in6);
        target = &peer.of.v6.sin6_addr;
    }
    if (inet_pton(peer.of.any.sa_family, address, target) != 1) exit(2);
    return peer;
}

static int open_to(struct peer *peer, int type, int seconds) {
    int fd = socket(peer->of.any.sa_family, type, 0);
    struct timeval limit = {.tv_sec = seconds};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    if (fd >= 0 && connect(fd, &peer->of.any, peer->length) == 0) return fd;
    perror("connect");
    exit(1);
}

/* Sends up to five times, a second apart, and prints the first answer. */
static int ask(struct peer peer, const char *text) {
    int fd = open_to(&peer, SOCK_DGRAM, 1);
    for (int i = 0; i < 5; i++) {
        char answer[2048];
        send(fd, text, strlen(text), 0);
        ssize_t got = recv(fd, answer, sizeof answer, 0);
        if (got < 0) continue;
        fwrite(answer, 1, (size_t)got, stdout);
        return 0;
    }
    return perror("no answer"), 1;
}

/* Prints the body of the answer. */
static int get(struct peer peer, const char *path) {
    static char answer[8 << 20];
    size_t used = 0;
    int fd = open_to(&peer, SOCK_STREAM, 10);
    dprintf(fd, "GET %s HTTP/1.0\r\n\r\n", path);
    for (ssize_t got; used < sizeof answer - 1; used += (size_t)got) {
        got = recv(fd, answer + used, sizeof answer - 1 - used, 0);
        if (got < 0) return perror("recv"), 1;
        if (got == 0) break;
    }
    char *body = strstr(answer, "\r\n\r\n");
    if (strncmp(answer, "HTTP/1.", 7) || strncmp(answer + 8, " 200", 4) || !body) return fputs("no document\n", stderr), 1;
    body += 4;
    fwrite(body, 1, used - (size_t)(body - answer), stdout);
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "serve") == 0) return serve(atoi(argv[2]));
    if (argc != 5) return 64;
    struct peer peer = peer_of(argv[2], atoi(argv[3]));
    if (strcmp(argv[1], "ask") == 0) return ask(peer, argv[4]);
    if (strcmp(argv[1], "get") == 0) return get(peer, argv[4]);
    return 64;
}
