/*
 * Runs a program on a pseudo terminal whose other end a test holds.
 *
 *   pty-tool ROWS COLUMNS PROGRAM ARGUMENT...
 *
 * What comes on descriptor 0 is typed, what the program shows goes to descriptor 1. Descriptor 3 takes lines:
 *   size ROWS COLUMNS    changes the size, which sends SIGWINCH
 *   modes                asks for the modes
 * and descriptor 4 answers:
 *   modes ICANON ECHO ISIG OPOST    each 0 or 1
 *   exit STATUS                     exit code, or 128 + signal, behind all output and the modes that are left
 * The terminal stays open to this program, so that its modes can be asked for when the other has gone. When descriptor 3
 * ends, the program is hung up on, as by a closed terminal window.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>
#include <utmp.h>

enum { COMMANDS = 3, ANSWERS = 4 };

static void fail(const char *what) {
  perror(what);
  exit(125);
}

static void write_all(int fd, const char *bytes, size_t length) {
  while (length > 0) {
    ssize_t count = write(fd, bytes, length);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return;
    bytes += count;
    length -= (size_t)count;
  }
}

/* Gives on what is there. Returns 0 at its end. */
static int carry(int from, int to) {
  char bytes[4096];
  ssize_t count = read(from, bytes, sizeof bytes);
  if (count <= 0) return count < 0 && (errno == EINTR || errno == EAGAIN);
  write_all(to, bytes, (size_t)count);
  return 1;
}

static void tell_modes(int terminal) {
  struct termios modes;
  char line[64];
  if (tcgetattr(terminal, &modes) != 0) fail("tcgetattr");
  int length = snprintf(line, sizeof line, "modes %d %d %d %d\n", (modes.c_lflag & ICANON) != 0,
                        (modes.c_lflag & ECHO) != 0, (modes.c_lflag & ISIG) != 0, (modes.c_oflag & OPOST) != 0);
  write_all(ANSWERS, line, (size_t)length);
}

static int obey(int terminal) {
  static char line[128];
  static size_t length;
  char byte;
  if (read(COMMANDS, &byte, 1) != 1) return 0;
  if (byte != '\n') {
    if (length < sizeof line - 1) line[length++] = byte;
    return 1;
  }
  line[length] = '\0';
  length = 0;
  struct winsize size = {0};
  if (strcmp(line, "modes") == 0) tell_modes(terminal);
  else if (sscanf(line, "size %hu %hu", &size.ws_row, &size.ws_col) == 2 && ioctl(terminal, TIOCSWINSZ, &size) != 0)
    fail("TIOCSWINSZ");
  return 1;
}

int main(int argc, char **argv) {
  if (argc < 4) return 2;
  struct winsize size = {.ws_row = (unsigned short)atoi(argv[1]), .ws_col = (unsigned short)atoi(argv[2])};
  int master, slave;
  if (openpty(&master, &slave, NULL, NULL, &size) != 0) fail("openpty");
  sigset_t child_signal;
  sigemptyset(&child_signal);
  sigaddset(&child_signal, SIGCHLD);
  sigprocmask(SIG_BLOCK, &child_signal, NULL);
  pid_t child = fork();
  if (child < 0) fail("fork");
  if (child == 0) {
    sigprocmask(SIG_UNBLOCK, &child_signal, NULL);
    close(master);
    close(COMMANDS);
    close(ANSWERS);
    if (login_tty(slave) != 0) fail("login_tty");
    execvp(argv[3], argv + 3);
    fail(argv[3]);
  }
  int ended = signalfd(-1, &child_signal, SFD_CLOEXEC);
  struct pollfd fds[] = {{.fd = 0, .events = POLLIN},
                         {.fd = COMMANDS, .events = POLLIN},
                         {.fd = master, .events = POLLIN},
                         {.fd = ended, .events = POLLIN}};
  while ((fds[3].revents & POLLIN) == 0) {
    if (poll(fds, 4, -1) < 0 && errno != EINTR) fail("poll");
    if (fds[0].revents != 0 && !carry(0, master)) fds[0].fd = -1;
    if (fds[1].revents != 0 && !obey(slave)) {
      fds[1].fd = -1;
      kill(-child, SIGHUP);
    }
    if ((fds[2].revents & POLLIN) != 0) carry(master, 1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  struct pollfd rest = {.fd = master, .events = POLLIN};
  while (poll(&rest, 1, 100) == 1 && (rest.revents & POLLIN) != 0) carry(master, 1);
  tell_modes(slave);
  char line[32];
  int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  write_all(ANSWERS, line, (size_t)snprintf(line, sizeof line, "exit %d\n", code));
  return 0;
}
