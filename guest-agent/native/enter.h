/* The way of a further process into a running container; see enter.c. */
#ifndef CAISSON_ENTER_H
#define CAISSON_ENTER_H

#include "process_plan.h"

/* Descriptors of the child, above 2; stdio -1 for the container's /dev/null. */
struct entry {
    int channel;   /* to the agent: src/container/handshake.ts */
    int container; /* pidfd of its first process */
    int stdio[3];
};

/* In the child; its pid namespace was entered by the clone. Failures go to the channel. */
_Noreturn void enter_container(const struct plan_bytes *bytes, const struct entry *entry);

#endif
