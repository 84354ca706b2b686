/*
 * spawn-probe COUNT PROGRAM ARGUMENT...: runs PROGRAM COUNT times, one after the other, with /dev/null for its input and
 * output, and prints the microseconds from before its start to after its end, one line each. Fails when PROGRAM does.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>

extern char **environ;

static int64_t now_us(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * INT64_C(1000000) + time.tv_nsec / 1000;
}

int main(int argc, char **argv) {
    if (argc < 3) return 64;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    for (int fd = 0; fd <= 1; fd++) posix_spawn_file_actions_addopen(&actions, fd, "/dev/null", O_RDWR, 0);
    for (int left = atoi(argv[1]); left > 0; left--) {
        pid_t pid;
        int status;
        int64_t begun = now_us();
        if (posix_spawn(&pid, argv[2], &actions, NULL, argv + 2, environ) != 0) return 1;
        if (waitpid(pid, &status, 0) != pid || status != 0) return 1;
        printf("%lld\n", (long long)(now_us() - begun));
    }
    return 0;
}
