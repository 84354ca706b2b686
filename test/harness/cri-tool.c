/*
 * What the tests of pods need in an image and busybox does not have, as one static program:
 *
 *   tool pause                   waits for a signal; reaps orphans
 *   tool watch PATH...           prints "ready", then "PATH MASK-NAMES NAME" for each inotify event
 *   tool serve-unix PATH         prints "ready", answers each connection with "hello from PID" and closes it
 *   tool ask-unix PATH           prints what the server at PATH sends
 *   tool allocate MIB            touches so much memory, prints "ready", waits
 *   tool shm-make NAME          makes a POSIX shared memory object of 4096 bytes (shm_open(3)) and leaves it
 *   tool shm-read NAME          prints the first byte of that object
 *   tool lock FILE              takes the file's lock (flock(2)), prints "locked", keeps it until a signal
 *   tool try-lock FILE          succeeds when the lock is free
 *   tool map FILE               maps the first page, prints "ready", and ends when its first byte is "1"
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static int fail(const char *what) {
  fprintf(stderr, "tool: %s: %s\n", what, strerror(errno));
  return 1;
}

static void end(int signal) { _exit(128 + signal); }
static void reap(int signal) {
  (void)signal;
  while (waitpid(-1, NULL, WNOHANG) > 0) {
  }
}

static int wait_for_signal(void) {
  signal(SIGTERM, end);
  signal(SIGINT, end);
  signal(SIGCHLD, reap);
  while (pause() != 0) {
  }
  return 0;
}

static const struct {
  unsigned mask;
  const char *name;
} names[] = {{IN_MODIFY, "modify"},     {IN_ATTRIB, "attrib"},           {IN_CLOSE_WRITE, "close_write"},
             {IN_MOVED_FROM, "moved_from"}, {IN_MOVED_TO, "moved_to"},   {IN_CREATE, "create"},
             {IN_DELETE, "delete"},     {IN_DELETE_SELF, "delete_self"}, {IN_MOVE_SELF, "move_self"},
             {IN_IGNORED, "ignored"}};

static int watch(int count, char **paths) {
  int fd = inotify_init1(IN_CLOEXEC), watches[16];
  if (fd < 0) return fail("inotify_init1");
  for (int i = 0; i < count && i < 16; i++) {
    watches[i] = inotify_add_watch(fd, paths[i], IN_ALL_EVENTS & ~(IN_ACCESS | IN_OPEN | IN_CLOSE_NOWRITE));
    if (watches[i] < 0) return fail(paths[i]);
  }
  puts("ready");
  char buffer[8192] __attribute__((aligned(8)));
  for (;;) {
    ssize_t size = read(fd, buffer, sizeof buffer);
    if (size <= 0) return fail("read");
    for (char *at = buffer; at < buffer + size;) {
      struct inotify_event *event = (struct inotify_event *)at;
      const char *path = "?";
      for (int i = 0; i < count && i < 16; i++)
        if (watches[i] == event->wd) path = paths[i];
      printf("%s", path);
      for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (event->mask & names[i].mask) printf(" %s", names[i].name);
      printf(" %s\n", event->len > 0 ? event->name : "");
      at += sizeof *event + event->len;
    }
  }
}

static int unix_socket(const char *path, struct sockaddr_un *address) {
  memset(address, 0, sizeof *address);
  address->sun_family = AF_UNIX;
  strncpy(address->sun_path, path, sizeof address->sun_path - 1);
  return socket(AF_UNIX, SOCK_STREAM, 0);
}

static int serve_unix(const char *path) {
  struct sockaddr_un address;
  int listener = unix_socket(path, &address);
  if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0) return fail("bind");
  if (listen(listener, 8) < 0) return fail("listen");
  puts("ready");
  for (;;) {
    int peer = accept(listener, NULL, NULL);
    if (peer < 0) return fail("accept");
    dprintf(peer, "hello from %s\n", path);
    close(peer);
  }
}

static int ask_unix(const char *path) {
  struct sockaddr_un address;
  int fd = unix_socket(path, &address);
  if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) return fail("connect");
  char buffer[256];
  for (ssize_t size; (size = read(fd, buffer, sizeof buffer)) > 0;)
    if (write(1, buffer, size) != size) return fail("write");
  return 0;
}

static int allocate(size_t bytes) {
  char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return fail("mmap");
  for (size_t at = 0; at < bytes; at += 4096) memory[at] = 1;
  puts("ready");
  return wait_for_signal();
}

static int shm_make(const char *name) {
  int fd = shm_open(name, O_CREAT | O_RDWR, 0666);
  if (fd < 0 || ftruncate(fd, 4096) < 0) return fail(name);
  return write(fd, "S", 1) == 1 ? 0 : fail("write");
}

static int shm_read(const char *name) {
  char byte;
  int fd = shm_open(name, O_RDONLY, 0);
  if (fd < 0 || read(fd, &byte, 1) != 1) return fail(name);
  printf("%c\n", byte);
  return 0;
}

static int lock(const char *path, int flags) {
  int fd = open(path, O_RDWR | O_CREAT, 0666);
  if (fd < 0 || flock(fd, flags) < 0) return fail(path);
  if (flags & LOCK_NB) return 0;
  puts("locked");
  return wait_for_signal();
}

static int map(const char *path) {
  int fd = open(path, O_RDWR | O_CREAT, 0666);
  if (fd < 0 || ftruncate(fd, 4096) < 0) return fail(path);
  volatile char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (page == MAP_FAILED) return fail("mmap");
  puts("ready");
  while (page[0] != '1') usleep(10000);
  return 0;
}

int main(int argc, char **argv) {
  const char *verb = argc > 1 ? argv[1] : "pause";
  setvbuf(stdout, NULL, _IOLBF, 0);
  if (strcmp(verb, "pause") == 0) return wait_for_signal();
  if (argc < 3) return fprintf(stderr, "tool: %s needs an argument\n", verb), 2;
  if (strcmp(verb, "watch") == 0) return watch(argc - 2, argv + 2);
  if (strcmp(verb, "serve-unix") == 0) return serve_unix(argv[2]);
  if (strcmp(verb, "ask-unix") == 0) return ask_unix(argv[2]);
  if (strcmp(verb, "allocate") == 0) return allocate((size_t)atol(argv[2]) << 20);
  if (strcmp(verb, "shm-make") == 0) return shm_make(argv[2]);
  if (strcmp(verb, "shm-read") == 0) return shm_read(argv[2]);
  if (strcmp(verb, "lock") == 0) return lock(argv[2], LOCK_EX);
  if (strcmp(verb, "try-lock") == 0) return lock(argv[2], LOCK_EX | LOCK_NB);
  if (strcmp(verb, "map") == 0) return map(argv[2]);
  fprintf(stderr, "tool: unknown verb %s\n", verb);
  return 2;
}
