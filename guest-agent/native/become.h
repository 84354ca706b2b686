/* The steps from a fresh child to its program; see become.c. */
#ifndef CAISSON_BECOME_H
#define CAISSON_BECOME_H

#include "process_plan.h"

/* The step that failed, by the names that src/container/process-plan.ts has words for. */
struct stop {
    const char *step;
    int64_t index; /* of the limit or candidate; else 0 */
    const char *call;
    int error;
};
/* Notes the failure, with errno; returns false. */
bool stop_at(struct stop *stop, const char *step, int64_t index, const char *call);
/* Bytes that hold any. */
#define STOP_TEXT 512
/* JSON that the handshake (src/container/handshake.ts) carries. */
int stop_text(const struct stop *stop, char *text, size_t room);

/* stdin, stdout, stderr and the program for commands that are not found; -1 for none. All above 2. */
struct ends {
    int stdio[3];
    int tools;
};

/*
 * Carries the plan out; returns only when it fails. Preconditions: inside the container's namespaces and root, as root.
 * `channel`: told what home directory was found, or -1.
 */
void become(struct process_plan *plan, const struct ends *ends, int channel, struct stop *stop);

/* home.c: the home directory by /etc/passwd while the process is root, NULL when that does not say; static storage. */
const char *root_home(const struct process_plan *plan, int channel);
/* The same as whom the process has become; "/" when there is none. */
const char *user_home(int64_t uid);

/* terminal.c: unlocks and sizes the terminal of an open multiplexer; its slave, or -1 with errno and `*call`. */
int terminal_slave(int master, int64_t rows, int64_t columns, const char **call);

/* sys_event.c: default dispositions, nothing blocked. */
int reset_signals(void);
/* container.c: of the calling process; needs the agent's /proc. `*call` is what failed. */
int set_oom_score(int64_t score, const char **call);

#endif
