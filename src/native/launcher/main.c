/*
 * containerd-shim-caisson-v2 as containerd and CRI-O run it. `start` is answered here, without Node: for a container of a
 * running sandbox with that sandbox's address, else with the address of a socket that is bound here and handed to the
 * server's Node as descriptor 3. So is `delete` where nothing is left to delete (delete.c). Everything else, and every call
 * with anything unusual about it (an error to be told, a stale socket, BootstrapParams on stdin), is handed over untouched
 * to the same program in JavaScript, whose src/shim/start.ts and delete.ts this follows. Up to the bind nothing is changed,
 * so handing over is always possible.
 */
#define _GNU_SOURCE
#include "launcher.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/* Node's own (net.Server.listen). */
#define BACKLOG 511
#define LISTEN_FD 3
#define CONNECT_LIMIT_S 2

struct arguments {
  const char *namespace, *id, *address, *publish_binary, *bundle, *config;
  bool debug;
};

static char program[PATH_MAX]; /* the directory above bin and lib */
static char *const *original_argv;
static struct bytes input; /* what was read from stdin */

/* Becomes the program in JavaScript, with what was read from stdin put back. */
static _Noreturn void hand_over(void) {
  if (input.length > 0) {
    int fd = memfd_create("stdin", 0);
    if (fd < 0 || write(fd, input.data, input.length) != (ssize_t)input.length || lseek(fd, 0, SEEK_SET) != 0 ||
        dup2(fd, 0) < 0) {
      perror("containerd-shim-caisson-v2: stdin");
      exit(1);
    }
    close(fd);
  }
  char path[PATH_MAX + 64];
  snprintf(path, sizeof path, "%s/lib/containerd-shim-caisson-v2.cjs", program);
  execv(path, original_argv);
  fprintf(stderr, "containerd-shim-caisson-v2: cannot run %s: %s\n", path, strerror(errno));
  exit(1);
}

/*
 * `delete`, which undoes what a dead shim left: containerd kills it after 5 s, and a busy machine may need those for
 * Node's start alone. So a session of its own does it and goes on. containerd reads its output to the end and so waits.
 */
static _Noreturn void delete_to_the_end(void) {
  int status = 0;
  pid_t pid = fork();
  if (pid == 0) setsid();
  if (pid <= 0) hand_over();
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
  exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

static void find_program(void) {
  ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
  for (int up = 0; up < 2 && length > 0; up++) {
    char *slash = memrchr(program, '/', (size_t)length);
    length = slash == NULL ? 0 : slash - program;
  }
  program[length > 0 ? length : 0] = 0;
}

/* Go's flag syntax. False for anything but one verb with flags that are known. */
static bool parse(int argc, char **argv, struct arguments *args) {
  struct { const char *name; const char **value; } flags[] = {
      {"namespace", &args->namespace}, {"id", &args->id},         {"address", &args->address},
      {"publish-binary", &args->publish_binary}, {"bundle", &args->bundle},
  };
  *args = (struct arguments){"", "", "", "", "", "", false};
  int at = 1;
  for (; at < argc && argv[at][0] == '-'; at++) {
    const char *name = argv[at] + (argv[at][1] == '-' ? 2 : 1);
    if (strcmp(name, "debug") == 0) {
      args->debug = true;
      continue;
    }
    size_t flag = 0;
    while (flag < sizeof flags / sizeof *flags && strcmp(name, flags[flag].name) != 0) flag++;
    if (flag == sizeof flags / sizeof *flags || ++at == argc) return false;
    *flags[flag].value = argv[at];
  }
  return at == argc - 1;
}

/* [A-Za-z0-9]+([._-][A-Za-z0-9]+)*, at most 76 bytes. */
static bool is_identifier(const char *id) {
  size_t length = strlen(id);
  bool after_separator = true;
  for (size_t at = 0; at < length; at++) {
    bool plain = (id[at] >= 'A' && id[at] <= 'Z') || (id[at] >= 'a' && id[at] <= 'z') || (id[at] >= '0' && id[at] <= '9');
    if (!plain && (after_separator || strchr("._-", id[at]) == NULL)) return false;
    after_separator = !plain;
  }
  return length > 0 && length <= MAX_IDENTIFIER && !after_separator;
}

/* Of the sandbox's address, containerd's namespace and the sandbox's id (src/persist/run-dir.ts, identityHash). */
static bool identify(const struct arguments *args, const char *sandbox, char identity[65]) {
  char text[8192];
  int length = snprintf(text, sizeof text, "%s%c%s%c%s", args->address, 0, args->namespace, 0, sandbox);
  if (length < 0 || (size_t)length >= sizeof text) return false;
  sha256_hex(text, (size_t)length, identity);
  return true;
}

/*
 * What the arguments and the bundle's config.json say of the container. False when something is unusual. The sandbox API
 * of containerd 2 has no config.json.
 */
static bool find_subject(const struct arguments *args, struct subject *subject) {
  static char bundle[PATH_MAX], sandbox[MAX_IDENTIFIER + 1];
  char path[PATH_MAX + 16];
  struct bytes json;
  enum role role = ROLE_OWN_SANDBOX;
  if (!is_identifier(args->namespace) || !is_identifier(args->id)) return false;
  if (*args->bundle != 0 ? realpath(args->bundle, bundle) == NULL : getcwd(bundle, sizeof bundle) == NULL) return false;
  snprintf(path, sizeof path, "%s/config.json", bundle);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0 && errno != ENOENT) return false;
  if (fd >= 0) {
    bool read = read_all(fd, INPUT_LIMIT, &json);
    close(fd);
    if (!read) return false;
    role = spec_role(json, sandbox, sizeof sandbox);
  }
  if (role == ROLE_UNCLEAR || (role == ROLE_CONTAINER && !is_identifier(sandbox))) return false;
  subject->own_sandbox = role == ROLE_OWN_SANDBOX;
  subject->id = args->id;
  subject->bundle = bundle;
  subject->sandbox = subject->own_sandbox ? args->id : sandbox;
  return identify(args, subject->sandbox, subject->identity);
}

static bool answers(const struct sockaddr_un *address) {
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct timeval limit = {.tv_sec = CONNECT_LIMIT_S};
  /* connect(2) of a unix socket waits, for a full backlog, as long as a send may. */
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  bool connected = connect(fd, (const struct sockaddr *)address, sizeof *address) == 0;
  close(fd);
  return connected;
}

static bool write_file(const char *bundle, const char *name, const char *text) {
  char path[PATH_MAX];
  if (snprintf(path, sizeof path, "%s/%s", bundle, name) >= (int)sizeof path) return false;
  int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  bool written = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
  if (fd >= 0) close(fd);
  return written;
}

/* The interpreter that the program in JavaScript names in its first line: "#!/usr/bin/env node" or a path. */
static bool find_node(char *node, size_t size) {
  char path[PATH_MAX + 64], line[PATH_MAX];
  snprintf(path, sizeof path, "%s/lib/containerd-shim-caisson-v2.cjs", program);
  FILE *file = fopen(path, "re");
  bool read = file != NULL && fgets(line, sizeof line, file) != NULL;
  if (file != NULL) fclose(file);
  static const char env[] = "#!/usr/bin/env ";
  const char *name = line + (read && strncmp(line, env, sizeof env - 1) == 0 ? sizeof env - 1 : 2);
  if (!read || strncmp(line, "#!", 2) != 0) return false;
  line[strcspn(line, "\n")] = 0;
  return snprintf(node, size, "%s", name) < (int)size && *name != 0 && strchr(name, ' ') == NULL;
}

/* In the child: becomes the server, a session of its own: containerd's signals and its death do not reach it. */
static void become_server(const struct arguments *args, const char *bundle, const char *socket_path, int listener) {
  char node[PATH_MAX], script[PATH_MAX + 64], snapshot[PATH_MAX + 64];
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  if (setsid() < 0 || null < 0 || chdir(bundle) != 0 || !find_node(node, sizeof node)) return;
  /* First away from where the others go. */
  int kept = fcntl(listener, F_DUPFD_CLOEXEC, LISTEN_FD + 1);
  if (kept < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 || dup2(null, 2) < 0 || dup2(kept, LISTEN_FD) < 0) return;
  snprintf(script, sizeof script, "%s/lib/shim-server.cjs", program);
  const char *argv[24] = {node, "--max-semi-space-size=1"};
  size_t count = 2;
  if (snapshot_usable(program, node, snapshot, sizeof snapshot)) {
    argv[count++] = "--snapshot-blob";
    argv[count++] = snapshot;
  }
  const char *fixed[] = {script, "-namespace", args->namespace, "-id", args->id, "-address", args->address};
  memcpy(argv + count, fixed, sizeof fixed);
  count += sizeof fixed / sizeof *fixed;
  if (*args->publish_binary != 0) {
    argv[count++] = "-publish-binary";
    argv[count++] = args->publish_binary;
  }
  if (args->debug) argv[count++] = "-debug";
  if (*args->config != 0) {
    argv[count++] = "-config";
    argv[count++] = args->config;
  }
  argv[count++] = "-bundle";
  argv[count++] = bundle;
  argv[count++] = "-socket";
  argv[count++] = socket_path;
  argv[count] = NULL;
  /* CLOSE_RANGE_CLOEXEC: whatever we inherited ends with us, and the pipe to our parent with the exec. */
  syscall(SYS_close_range, LISTEN_FD + 1, ~0U, 1U << 2);
  execvp(node, (char *const *)argv);
}

/* Starts the server. @returns its pid; -1 when it could not be, and then nothing is left of it. */
static pid_t launch(const struct arguments *args, const char *bundle, const char *socket_path, int listener) {
  int failure[2];
  char byte;
  if (pipe2(failure, O_CLOEXEC) != 0) return -1;
  pid_t pid = fork();
  if (pid == 0) {
    become_server(args, bundle, socket_path, listener);
    (void)!write(failure[1], "x", 1);
    _exit(127);
  }
  close(failure[1]);
  ssize_t count;
  do count = read(failure[0], &byte, 1);
  while (count < 0 && errno == EINTR);
  close(failure[0]);
  if (pid > 0 && count == 0) return pid;
  if (pid > 0) waitpid(pid, NULL, 0);
  return -1;
}

/* Binds the sandbox's socket and starts its server behind it. @returns the server's pid. */
static pid_t start_sandbox(const struct arguments *args, const char *bundle, const struct sockaddr_un *address) {
  const char *path = address->sun_path;
  if (mkdir(SOCKET_DIR, 0711) != 0 && errno != EEXIST) hand_over();
  int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  mode_t mask = umask(0177);
  bool bound = listener >= 0 && bind(listener, (const struct sockaddr *)address, sizeof *address) == 0;
  umask(mask);
  /* There is one already, living or dead. */
  if (!bound) hand_over();
  pid_t pid = listen(listener, BACKLOG) == 0 ? launch(args, bundle, path, listener) : -1;
  if (pid < 0) {
    unlink(path);
    hand_over();
  }
  return pid;
}

/* Writes down what `start` has made and answers. False, with errno, when somebody would not learn of it. */
static bool tell(const char *bundle, pid_t server, const char *answer) {
  char pid[16];
  snprintf(pid, sizeof pid, "%d", server);
  return (server <= 0 || write_file(bundle, "shim.pid", pid)) && write_file(bundle, "address", answer) &&
         write(1, answer, strlen(answer)) >= 0;
}

/* For scripts/code-cache.mjs. @param node the program that has made the snapshot. @returns the exit status. */
static int print_snapshot_key(const char *node) {
  char *key;
  return snapshot_key(program, node, &key) && fputs(key, stdout) >= 0 && fflush(stdout) == 0 ? 0 : 1;
}

static int start(struct arguments *args, const struct subject *subject) {
  char config[PATH_MAX], answer[160];
  if (!isatty(0) && !read_all(0, INPUT_LIMIT, &input)) hand_over();
  if (!options_config_path(input, config, sizeof config)) hand_over();
  args->config = config;
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  snprintf(address.sun_path, sizeof address.sun_path, SOCKET_DIR "/" SOCKET_PREFIX "%s", subject->identity);
  pid_t server = 0;
  if (subject->own_sandbox) server = start_sandbox(args, subject->bundle, &address);
  else if (!answers(&address)) hand_over(); /* it says why */
  snprintf(answer, sizeof answer, "unix://%s", address.sun_path);
  signal(SIGPIPE, SIG_IGN);
  if (tell(subject->bundle, server, answer)) return 0;
  int error = errno;
  if (server > 0) {
    kill(server, SIGKILL);
    unlink(address.sun_path);
  }
  fprintf(stderr, "containerd-shim-caisson-v2: cannot tell the address in %s: %s\n", subject->bundle, strerror(error));
  return 1;
}

int main(int argc, char **argv) {
  struct arguments args;
  struct subject subject;
  unsigned char answer[DELETE_RESPONSE_LIMIT];
  size_t length;
  original_argv = argv;
  find_program();
  if (argc == 3 && strcmp(argv[1], "-snapshot-key") == 0) return print_snapshot_key(argv[2]);
  const char *verb = argv[argc - 1];
  bool known = parse(argc, argv, &args) && getenv("CAISSON_FAILPOINTS") == NULL && find_subject(&args, &subject);
  if (strcmp(verb, "start") == 0 && known) return start(&args, &subject);
  if (strcmp(verb, "delete") != 0) hand_over();
  if (!known || !nothing_left(&subject, answer, &length)) delete_to_the_end();
  return write(1, answer, length) == (ssize_t)length ? 0 : 1;
}
