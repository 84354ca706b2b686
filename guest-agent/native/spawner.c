/*
 * The spawner: a small process that clones the execs of containers, as the agent's children (CLONE_PARENT). To clone the
 * agent itself copies its page tables, and afterwards each page that it or the child writes. Made before the interpreter
 * is there; does one request at a time, of which none can wait for anything but the kernel; ends with the agent.
 */
#include "become.h"
#include "enter.h"
#include "passing.h"
#include "runtime.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>

/* For an answer, and for taking a request: it is a few system calls, on a machine that may be very busy. */
static const struct timeval LIMIT = {.tv_sec = 10};

/* Then come the bytes of the plan. With it: channel, container, cgroup, and those ends of stdio that are there. */
struct request {
    uint64_t length;
    int32_t joins;  /* the pid namespace of the container */
    int32_t has[3]; /* stdin, stdout, stderr */
};

/* `error` is 0 or an errno of `joining ? setns : clone3`. */
struct reply {
    int32_t pid, error, joining;
};

static int agent_end = -1;
static pid_t spawner = -1;

static int clone_child(int cgroup) {
    struct clone_args args = {.flags = CLONE_PARENT | CLONE_INTO_CGROUP, .cgroup = (uint64_t)cgroup};
    return (int)syscall(SYS_clone3, &args, sizeof args);
}

static struct reply spawn(const struct request *request, const struct plan_bytes *bytes, const int *fds, int control,
                          int self) {
    struct entry entry = {fds[0], fds[1], {-1, -1, -1}};
    for (int i = 0, next = 3; i < 3; i++)
        if (request->has[i]) entry.stdio[i] = fds[next++];
    if (request->joins && setns(entry.container, CLONE_NEWPID) < 0) return (struct reply){-1, errno, 1};
    int pid = clone_child(fds[2]);
    if (pid == 0) {
        close(control);
        enter_container(bytes, &entry);
    }
    struct reply reply = {pid, pid < 0 ? errno : 0, 0};
    /* The next child may belong elsewhere. */
    if (request->joins && setns(self, CLONE_NEWPID) < 0) _exit(1);
    return reply;
}

/* False at the agent's end. */
static bool serve_one(int control, int self) {
    struct request request;
    int fds[MAX_PASSED], count;
    if (receive_with(control, &request, sizeof request, MSG_WAITALL, fds, &count) != sizeof request) return false;
    struct plan_bytes bytes = {malloc(request.length), request.length, request.length};
    bool whole = bytes.data && SYS_RETRY(recv(control, bytes.data, bytes.length, MSG_WAITALL)) == (int64_t)bytes.length;
    if (whole) {
        struct reply reply = spawn(&request, &bytes, fds, control, self);
        whole = send(control, &reply, sizeof reply, MSG_NOSIGNAL) == sizeof reply;
    }
    plan_bytes_free(&bytes);
    for (int i = 0; i < count; i++) close(fds[i]);
    return whole;
}

static _Noreturn void serve(int control) {
    rename_process("spawner");
    /* Its children are seen in containers, which have no business in /proc/N of them. */
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    syscall(SYS_close_range, 3, control - 1, 0);
    syscall(SYS_close_range, control + 1, ~0u, 0);
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) < 0) dup3(control, fd, O_CLOEXEC); /* an init may start without any */
    /* Here once, not in each child: it is a system call per signal. */
    reset_signals();
    int self = (int)syscall(SYS_pidfd_open, getpid(), 0);
    while (serve_one(control, self)) continue;
    _exit(0);
}

/* The descriptor above stdio, close-on-exec. */
static int above_stdio(int fd) {
    int moved = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    close(fd);
    return moved;
}

void spawner_start(void) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0) return;
    agent_end = above_stdio(ends[0]);
    int control = above_stdio(ends[1]);
    setsockopt(agent_end, SOL_SOCKET, SO_RCVTIMEO, &LIMIT, sizeof LIMIT);
    setsockopt(agent_end, SOL_SOCKET, SO_SNDTIMEO, &LIMIT, sizeof LIMIT);
    spawner = fork();
    if (spawner == 0) serve(control);
    close(control);
}

/* A container that shares the agent's pid namespace may kill the spawner, or stop it. The reaper takes it. */
static void replace(bool gone) {
    if (!gone && spawner > 0) kill(spawner, SIGKILL);
    if (agent_end >= 0) close(agent_end);
    spawner_start();
}

/* False with errno: EPIPE when nothing has taken the request. */
static bool ask(const struct request *request, const struct plan_bytes *bytes, const int *fds, int count,
                struct reply *reply) {
    struct iovec parts[] = {{(void *)(uintptr_t)request, sizeof *request}, {bytes->data, bytes->length}};
    int64_t sent = send_with(agent_end, parts, 2, fds, count);
    if (sent < 0) return false;
    int64_t got = SYS_RETRY(recv(agent_end, reply, sizeof *reply, MSG_WAITALL));
    if (got == sizeof *reply) return true;
    if (got >= 0) errno = EIO;
    return false;
}

/* spawnProcess(plan, joins, channel, container, cgroup, stdin, stdout, stderr): pid; see sys-container.d.ts */
SYS_IMPL(js_spawn_process) {
    SYS_UNUSED;
    int ends[6], fds[6], count = 0;
    for (int i = 0; i < 6; i++)
        if (sys_i32(ctx, argv[2 + i], &ends[i])) return JS_EXCEPTION;
    for (int i = 0; i < 6; i++)
        if (ends[i] >= 0) fds[count++] = ends[i];
    __attribute__((cleanup(plan_bytes_free))) struct plan_bytes bytes = {0};
    if (process_plan_encode(ctx, argv[0], &bytes)) return JS_EXCEPTION;
    struct request request = {bytes.length, JS_ToBool(ctx, argv[1]), {ends[3] >= 0, ends[4] >= 0, ends[5] >= 0}};
    struct reply reply;
    bool done = ask(&request, &bytes, fds, count, &reply);
    if (!done) {
        int error = errno;
        replace(error == EPIPE);
        done = error == EPIPE && ask(&request, &bytes, fds, count, &reply);
        if (!done) return sys_throw_errno(ctx, "spawner", error);
    }
    if (reply.error != 0) return sys_throw_errno(ctx, reply.joining ? "setns" : "clone3", reply.error);
    return JS_NewInt32(ctx, reply.pid);
}

/* spawnerPid() */
SYS_IMPL(js_spawner_pid) {
    SYS_UNUSED;
    return JS_NewInt32(ctx, spawner);
}

static const JSCFunctionListEntry spawner_functions[] = {
    SYS_FN("spawnProcess", 8, js_spawn_process),
    SYS_FN("spawnerPid", 0, js_spawner_pid),
};
SYS_TABLE(spawner_functions)
