/*
 * What a process does before its program runs, as src/container/process-plan.ts has decided it (typed there and in
 * sys-container.d.ts), and the bytes by which it reaches the spawner: the numbers below up to `text_length`, then groups,
 * limits, scheduler, filter and texts, one after the other.
 */
#ifndef CAISSON_PROCESS_PLAN_H
#define CAISSON_PROCESS_PLAN_H

#include "sys.h"

#include <linux/filter.h>

struct process_plan {
    int64_t uid, gid, umask;
    int64_t bounding, effective, permitted, inheritable, ambient; /* bit n is capability n */
    int64_t personality, io_priority;                             /* -1: as it is */
    int64_t no_new_privileges;
    int64_t filter_flags;
    int64_t needs_home; /* the environment has no HOME */
    int64_t terminal;
    int64_t rows, columns, oom_score; /* of a process that the spawner makes */
    int64_t group_count, limit_count, scheduler_count, filter_count;
    int64_t arg_count, env_count, candidate_count;
    int64_t text_length;
    /* Here ends what is sent. The rest points into the bytes behind it; process_plan_close() frees. */
    const int64_t *groups;
    const int64_t *limits;    /* resource, soft, hard of each */
    const int64_t *scheduler; /* the fields of struct sched_attr behind its size, or none */
    struct sock_filter *filter;
    const char *cwd;
    const char *passwd, *home; /* for this state of /etc/passwd, this home directory */
    char **args, **env;        /* NULL-terminated; `env` has room for one more */
    char **candidates;         /* paths of the program; one that is named by its path is the only one */
};

struct plan_bytes {
    uint8_t *data;
    size_t length, capacity;
};
void plan_bytes_free(struct plan_bytes *bytes);

/* Of a JavaScript object; -1 with a pending exception. The caller frees the bytes. */
int process_plan_encode(JSContext *ctx, JSValueConst object, struct plan_bytes *bytes);
/* Into `plan`, which points into the bytes; -1 with errno. */
int process_plan_open(const struct plan_bytes *bytes, struct process_plan *plan);
void process_plan_close(struct process_plan *plan);

#endif
