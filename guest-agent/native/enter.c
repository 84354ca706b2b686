/* What a further process of a running container does between clone and execve, before become.c. */
#include "enter.h"
#include "become.h"
#include "passing.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/stat.h>

/* As a shell has it for a command that it cannot run. */
#define EXIT_FAILED 127

static bool open_terminal(const struct process_plan *plan, const struct entry *entry, struct ends *ends,
                          struct stop *stop) {
    const char *call = "openat";
    int master = open("/dev/pts/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
    int slave = master < 0 ? -1 : terminal_slave(master, plan->rows, plan->columns, &call);
    if (slave < 0) return stop_at(stop, strcmp(call, "multiplexer") == 0 ? call : "terminal", 0, call);
    for (int i = 0; i < 3; i++) ends->stdio[i] = slave;
    struct iovec ready = {"{\"type\":\"ready\"}", sizeof "{\"type\":\"ready\"}" - 1};
    if (send_with(entry->channel, &ready, 1, &master, 1) < 0) return stop_at(stop, "terminal", 0, "sendmsg");
    close(master);
    return true;
}

static bool enter(const struct process_plan *plan, const struct entry *entry, struct ends *ends, struct stop *stop) {
    const char *call;
    umask(0);
    if (set_oom_score(plan->oom_score, &call) < 0) return stop_at(stop, "oomScore", 0, call);
    if (setns(entry->container, CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP) < 0)
        return stop_at(stop, "namespaces", 0, "setns");
    return !plan->terminal || open_terminal(plan, entry, ends, stop);
}

void enter_container(const struct plan_bytes *bytes, const struct entry *entry) {
    struct process_plan plan;
    struct stop stop;
    struct ends ends = {{entry->stdio[0], entry->stdio[1], entry->stdio[2]}, -1};
    if (process_plan_open(bytes, &plan) < 0) stop_at(&stop, "plan", 0, "plan");
    else if (enter(&plan, entry, &ends, &stop)) become(&plan, &ends, entry->channel, &stop);
    char text[STOP_TEXT];
    struct iovec message = {text, (size_t)stop_text(&stop, text, sizeof text)};
    send_with(entry->channel, &message, 1, NULL, 0);
    _exit(EXIT_FAILED);
}
