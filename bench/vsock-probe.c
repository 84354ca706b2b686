/*
 * vsock-probe PORT RUNS BYTES: in a guest. RUNS times, over a connection to the host's PORT each: sends BYTES and closes;
 * takes BYTES and answers with one; sends back what comes until its end.
 */
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static char buffer[65536];

static void need(int good, const char *what) {
  if (good) return;
  perror(what);
  exit(1);
}

static int dial(unsigned port) {
  struct sockaddr_vm host = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = port};
  int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
  need(fd >= 0, "socket");
  need(connect(fd, (struct sockaddr *)&host, sizeof host) == 0, "connect");
  return fd;
}

static void send_all(int fd, const char *bytes, size_t count) {
  while (count > 0) {
    ssize_t sent = write(fd, bytes, count);
    need(sent > 0, "write");
    bytes += sent;
    count -= sent;
  }
}

static void output(int fd, long count) {
  for (; count > 0; count -= sizeof buffer) send_all(fd, buffer, count < (long)sizeof buffer ? count : (long)sizeof buffer);
}

static void input(int fd, long count) {
  while (count > 0) {
    ssize_t got = read(fd, buffer, sizeof buffer);
    need(got > 0, "read");
    count -= got;
  }
  send_all(fd, "x", 1);
}

static void echo(int fd) {
  for (ssize_t got; (got = read(fd, buffer, sizeof buffer)) > 0;) send_all(fd, buffer, got);
}

int main(int argc, char **argv) {
  need(argc == 4, "usage: vsock-probe PORT RUNS BYTES");
  unsigned port = strtoul(argv[1], NULL, 10);
  long bytes = atol(argv[3]);
  for (int run = atoi(argv[2]); run > 0; run--) {
    for (int what = 0; what < 3; what++) {
      int fd = dial(port);
      if (what == 0) output(fd, bytes);
      else if (what == 1) input(fd, bytes);
      else echo(fd);
      close(fd);
    }
  }
  return 0;
}
