/* HOME by a container's /etc/passwd, which its processes may have made anything. */
#include "become.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define PASSWD "/etc/passwd"
/* Bytes of it that are looked at. */
#define PASSWD_LIMIT (1 << 20)
#define HOME_LIMIT 4096

static char found[HOME_LIMIT];

/* The first line of six fields or more with this user id and a directory (passwd(5)); "/" when there is none. */
static const char *directory_in(char *text, int64_t uid) {
    char wanted[24];
    snprintf(wanted, sizeof wanted, "%lld", (long long)uid);
    for (char *line = strsep(&text, "\n"); line; line = strsep(&text, "\n")) {
        char *field[6];
        int count = 0;
        while (count < 6 && (field[count] = strsep(&line, ":"))) count++;
        if (count == 6 && strcmp(field[2], wanted) == 0 && field[5][0] && strlen(field[5]) < HOME_LIMIT)
            return strcpy(found, field[5]);
    }
    return "/";
}

/* The directory by an open file; NULL when it cannot be read, has no `limit` bytes, or has more. */
static const char *directory_by(int fd, size_t limit, bool whole, int64_t uid) {
    char *text = malloc(limit + 2);
    size_t length = 0;
    for (ssize_t got = 1; text && got > 0 && length <= limit; length += (size_t)got) {
        got = (ssize_t)SYS_RETRY(read(fd, text + length, limit + 1 - length));
        if (got < 0) length = limit + 1, got = 0;
    }
    const char *directory = NULL;
    if (text && length <= limit && (!whole || length == limit)) {
        text[length] = 0;
        directory = directory_in(text, uid);
    }
    free(text);
    return directory;
}

struct state {
    char text[96];
    size_t size;
};

/* Another text after each change of the file; false unless it is a plain file of the root file system. */
static bool plain_file(const struct stat *info, struct state *state) {
    struct stat root;
    if (!S_ISREG(info->st_mode) || info->st_size > PASSWD_LIMIT) return false;
    if (stat("/", &root) < 0 || root.st_dev != info->st_dev) return false;
    state->size = (size_t)info->st_size;
    snprintf(state->text, sizeof state->text, "%llu %llu %lld %lld.%09ld", (unsigned long long)info->st_dev,
             (unsigned long long)info->st_ino, (long long)info->st_size, (long long)info->st_ctim.tv_sec,
             info->st_ctim.tv_nsec);
    return true;
}

/* For the next exec of this user; only what JSON takes as it is. */
static void tell(int channel, const struct state *state, const char *directory) {
    for (const char *c = directory; *c; c++)
        if (*c < 0x20 || *c > 0x7e || *c == '"' || *c == '\\') return;
    char message[HOME_LIMIT + 256];
    int length = snprintf(message, sizeof message, "{\"type\":\"home\",\"passwd\":\"%s\",\"directory\":\"%s\"}",
                          state->text, directory);
    if (channel >= 0) send(channel, message, (size_t)length, MSG_NOSIGNAL);
}

/*
 * As an earlier process has found it where that still holds: to open and close a file are two requests to virtiofsd, to
 * look at what the guest knows of it is none. Runs as root: a link, or another file system's file, is not opened here.
 */
const char *root_home(const struct process_plan *plan, int channel) {
    struct stat info;
    struct state before, now;
    if (lstat(PASSWD, &info) < 0 || !plain_file(&info, &before)) return NULL;
    if (strcmp(before.text, plan->passwd) == 0) return plan->home;
    int fd = open(PASSWD, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return NULL;
    const char *directory = NULL;
    if (fstat(fd, &info) == 0 && plain_file(&info, &now) && strcmp(before.text, now.text) == 0)
        directory = directory_by(fd, now.size, true, plan->uid);
    close(fd);
    if (directory) tell(channel, &before, directory);
    return directory;
}

const char *user_home(int64_t uid) {
    int fd = open(PASSWD, O_RDONLY | O_CLOEXEC);
    const char *directory = fd < 0 ? NULL : directory_by(fd, PASSWD_LIMIT, false, uid);
    if (fd >= 0) close(fd);
    return directory ? directory : "/";
}
