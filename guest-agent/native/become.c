/*
 * The last steps of a child, the same for a container's first process, an exec and the debug console: stdio, limits,
 * user, capabilities, seccomp, execve. In C because each step of the interpreter is slow on an emulated processor, and
 * because what runs here runs on pages that are copied for it.
 */
#include "become.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

bool stop_at(struct stop *stop, const char *step, int64_t index, const char *call) {
    *stop = (struct stop){step, index, call, errno};
    return false;
}

int stop_text(const struct stop *stop, char *text, size_t room) {
    const char *name = strerrorname_np(stop->error), *words = strerrordesc_np(stop->error);
    return snprintf(text, room, "{\"type\":\"stopped\",\"step\":\"%s\",\"index\":%d,\"errno\":\"%s\",\"cause\":\"%s: %s\"}",
                    stop->step, (int)stop->index, name ? name : "EUNKNOWN", stop->call, words ? words : "unknown error");
}

static bool is_null_device(const struct stat *info) {
    return info->st_rdev == makedev(1, 3); /* devices.txt */
}

static bool place_stdio(const struct ends *ends, struct stop *stop) {
    int nothing = -1;
    for (int fd = 0; fd < 3; fd++) {
        if (ends->stdio[fd] < 0 && nothing < 0) {
            struct stat info;
            nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
            if (nothing < 0) return stop_at(stop, "stdio", 0, "openat");
            if (fstat(nothing, &info) < 0) return stop_at(stop, "stdio", 0, "fstatat");
            /* Something else under that name would be a trap. */
            if (!S_ISCHR(info.st_mode) || !is_null_device(&info)) return stop_at(stop, "null", 0, "open");
        }
        if (dup3(ends->stdio[fd] < 0 ? nothing : ends->stdio[fd], fd, 0) < 0) return stop_at(stop, "stdio", 0, "dup3");
    }
    return true;
}

static bool lead_session(const struct process_plan *plan, struct stop *stop) {
    if (setsid() < 0) return stop_at(stop, "session", 0, "setsid");
    return !plan->terminal || ioctl(0, TIOCSCTTY, 0) == 0 || stop_at(stop, "session", 0, "ioctl");
}

/* So that a process without privileges can open /dev/stdout again. Files that are not ours to give are left. */
static bool give_stdio(const struct process_plan *plan, struct stop *stop) {
    for (int fd = 0; fd < 3; fd++) {
        struct stat info;
        if (fstat(fd, &info) < 0) return stop_at(stop, "stdio", 0, "fstatat");
        if (info.st_uid == (uid_t)plan->uid || is_null_device(&info)) continue;
        if (fchown(fd, (uid_t)plan->uid, info.st_gid) == 0) continue;
        if (errno != EPERM && errno != EINVAL && errno != EROFS) return stop_at(stop, "stdio", 0, "fchownat");
    }
    return true;
}

static bool set_limits(const struct process_plan *plan, struct stop *stop) {
    for (int64_t i = 0; i + 2 < plan->limit_count; i += 3) {
        const int64_t *limit = plan->limits + i;
        /* struct rlimit64; all bits set is "unlimited" */
        if (syscall(SYS_prlimit64, 0, (int)limit[0], limit + 1, NULL) < 0)
            return stop_at(stop, "limit", i / 3, "prlimit");
    }
    return true;
}

static bool set_scheduling(const struct process_plan *plan, struct stop *stop) {
    if (plan->io_priority >= 0 &&
        syscall(SYS_ioprio_set, 1 /* IOPRIO_WHO_PROCESS */, 0, (int)plan->io_priority) < 0)
        return stop_at(stop, "ioPriority", 0, "ioprio_set");
    if (plan->scheduler_count == 7) {
        const int64_t *field = plan->scheduler;
        struct { /* struct sched_attr, SCHED_ATTR_SIZE_VER0, linux/sched/types.h */
            uint32_t size, policy;
            uint64_t flags;
            int32_t nice;
            uint32_t priority;
            uint64_t runtime, deadline, period;
        } attributes = {48,
                        (uint32_t)field[0],
                        (uint64_t)field[1],
                        (int32_t)field[2],
                        (uint32_t)field[3],
                        (uint64_t)field[4],
                        (uint64_t)field[5],
                        (uint64_t)field[6]};
        _Static_assert(sizeof attributes == 48, "size of sched_attr");
        if (syscall(SYS_sched_setattr, 0, &attributes, 0) < 0) return stop_at(stop, "scheduler", 0, "sched_setattr");
    }
    if (plan->personality >= 0 && syscall(SYS_personality, (unsigned long)plan->personality) < 0)
        return stop_at(stop, "personality", 0, "personality");
    return true;
}

static bool limit_bounding_set(const struct process_plan *plan, struct stop *stop) {
    for (int number = 0; number < 64; number++) {
        if ((uint64_t)plan->bounding >> number & 1 || prctl(PR_CAPBSET_DROP, number, 0, 0, 0) == 0) continue;
        /* The first number that the kernel does not know ends the range. */
        return errno == EINVAL || stop_at(stop, "bounding", 0, "prctl PR_CAPBSET_DROP");
    }
    return true;
}

/* The system calls themselves: the process has one thread, and libc's view of threads is stale after clone3. */
static bool change_user(const struct process_plan *plan, struct stop *stop) {
    gid_t *groups = calloc((size_t)plan->group_count + 1, sizeof *groups);
    if (!groups) return stop_at(stop, "user", 0, "calloc");
    for (int64_t i = 0; i < plan->group_count; i++) groups[i] = (gid_t)plan->groups[i];
    gid_t gid = (gid_t)plan->gid;
    uid_t uid = (uid_t)plan->uid;
    prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0);
    if (syscall(SYS_setgroups, (size_t)plan->group_count, groups) < 0) return stop_at(stop, "user", 0, "setgroups");
    if (syscall(SYS_setresgid, gid, gid, gid) < 0) return stop_at(stop, "user", 0, "setresgid");
    if (syscall(SYS_setresuid, uid, uid, uid) < 0) return stop_at(stop, "user", 0, "setresuid");
    prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0);
    free(groups);
    umask((mode_t)plan->umask);
    return true;
}

static int set_capabilities(uint64_t effective, uint64_t permitted, uint64_t inheritable) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    for (int word = 0; word < 2; word++) {
        data[word].effective = (uint32_t)(effective >> (32 * word));
        data[word].permitted = (uint32_t)(permitted >> (32 * word));
        data[word].inheritable = (uint32_t)(inheritable >> (32 * word));
    }
    return (int)syscall(SYS_capset, &header, data);
}

/* Makes all that is permitted effective; the change of user has taken it away. */
static bool raise_permitted(struct stop *stop) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    if (syscall(SYS_capget, &header, data) < 0) return stop_at(stop, "raise", 0, "capget");
    for (int word = 0; word < 2; word++) data[word].effective = data[word].permitted;
    return syscall(SYS_capset, &header, data) == 0 || stop_at(stop, "raise", 0, "capset");
}

static bool reduce_capabilities(const struct process_plan *plan, struct stop *stop) {
    /* Bits that the kernel does not know are ignored by it. */
    if (set_capabilities((uint64_t)plan->effective, (uint64_t)plan->permitted, (uint64_t)plan->inheritable) < 0)
        return stop_at(stop, "capabilities", 0, "capset");
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0) return stop_at(stop, "ambient", 0, "prctl");
    for (int number = 0; number < 64; number++) {
        if (!((uint64_t)plan->ambient >> number & 1)) continue;
        if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number, 0, 0) == 0) continue;
        /* Not permitted or not inheritable: the kernel's rule for ambient capabilities, not a reason to fail. */
        if (errno != EPERM && errno != EINVAL) return stop_at(stop, "ambient", 0, "prctl");
    }
    return true;
}

static bool install_filter(const struct process_plan *plan, struct stop *stop) {
    struct sock_fprog program = {.len = (unsigned short)plan->filter_count, .filter = plan->filter};
    errno = EINVAL;
    if (plan->filter_count > BPF_MAXINSNS) return stop_at(stop, "seccomp", 0, "seccomp");
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, (unsigned)plan->filter_flags, &program) == 0 ||
           stop_at(stop, "seccomp", 0, "seccomp");
}

/*
 * User, capabilities, no_new_privs and seccomp. Without no_new_privs a filter needs CAP_SYS_ADMIN to install, so it is
 * installed before the capabilities go; with it, last of all, so that it need not allow the calls in between.
 */
static bool change_identity(const struct process_plan *plan, struct stop *stop) {
    if (!limit_bounding_set(plan, stop) || !change_user(plan, stop)) return false;
    bool filtered = plan->filter_count > 0;
    if (filtered && !plan->no_new_privileges && !(raise_permitted(stop) && install_filter(plan, stop))) return false;
    if (!reduce_capabilities(plan, stop)) return false;
    if (!plan->no_new_privileges) return true;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) return stop_at(stop, "noNewPrivileges", 0, "prctl");
    return !filtered || install_filter(plan, stop);
}

/* 0, or why the path cannot be executed. */
static int why_not(const char *path) {
    struct stat info;
    if (stat(path, &info) < 0) return errno;
    if (S_ISDIR(info.st_mode)) return EISDIR;
    return info.st_mode & 0111 ? 0 : EACCES;
}

static void execute(struct process_plan *plan, const char *home, const struct ends *ends, struct stop *stop) {
    char variable[sizeof "HOME=" + 4096];
    if (plan->needs_home) {
        snprintf(variable, sizeof variable, "HOME=%s", home ? home : user_home(plan->uid));
        plan->env[plan->env_count] = variable;
    }
    int64_t index = 0;
    int reason = ENOENT;
    while (index < plan->candidate_count && (reason = why_not(plan->candidates[index])) != 0) index++;
    reset_signals();
    if (reason != 0) {
        if (ends->tools >= 0 && !strchr(plan->args[0], '/'))
            syscall(SYS_execveat, ends->tools, "", plan->args, plan->env, AT_EMPTY_PATH);
        errno = reason;
        stop_at(stop, "find", 0, "stat");
        return;
    }
    execve(plan->candidates[index], plan->args, plan->env);
    stop_at(stop, "execute", index, "execve");
}

void become(struct process_plan *plan, const struct ends *ends, int channel, struct stop *stop) {
    if (!place_stdio(ends, stop) || !lead_session(plan, stop) || !give_stdio(plan, stop) || !set_limits(plan, stop) ||
        !set_scheduling(plan, stop))
        return;
    bool entered = chdir(plan->cwd) == 0;
    const char *home = plan->needs_home ? root_home(plan, channel) : NULL;
    if (!change_identity(plan, stop)) return;
    /* A directory that only the user may enter (root squashed by its server, for example). */
    if (!entered && chdir(plan->cwd) < 0) {
        stop_at(stop, "cwd", 0, "chdir");
        return;
    }
    execute(plan, home, ends, stop);
}
