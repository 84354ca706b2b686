/*
 * What a process becomes between clone and execve: namespaces, root, credentials, capabilities, limits; and the
 * holder of a shared pid namespace. Which of it applies is decided in src/container/.
 */
#include "runtime.h"
#include "sys.h"

#include <linux/capability.h>
#include <linux/close_range.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* unshare(flags): CLONE_NEW* */
SYS_IMPL(js_unshare) {
    SYS_UNUSED;
    SYS_ARG_I32(flags, 0);
    return sys_done(ctx, "unshare", unshare(flags));
}

/* setns(fd, flags): a namespace, or a pidfd with the CLONE_NEW* bits of the namespaces to take from it */
SYS_IMPL(js_setns) {
    SYS_UNUSED;
    SYS_ARG_I32(fd, 0);
    SYS_ARG_I32(flags, 1);
    return sys_done(ctx, "setns", setns(fd, flags));
}

/* pivotRoot(newRoot, putOld) */
SYS_IMPL(js_pivot_root) {
    SYS_UNUSED;
    SYS_ARG_STR(new_root, 0);
    SYS_ARG_STR(put_old, 1);
    return sys_done(ctx, "pivot_root", syscall(SYS_pivot_root, new_root.s, put_old.s));
}

/* closeRange(first, last): closes the open descriptors of the range, both ends included */
SYS_IMPL(js_close_range) {
    SYS_UNUSED;
    SYS_ARG_I64(first, 0);
    SYS_ARG_I64(last, 1);
    return sys_done(ctx, "close_range", syscall(SYS_close_range, (unsigned)first, (unsigned)last, 0));
}

/* capset(effective, permitted, inheritable): bit n is capability number n */
SYS_IMPL(js_capset) {
    SYS_UNUSED;
    int64_t sets[3];
    for (int i = 0; i < 3; i++)
        if (sys_i64(ctx, argv[i], &sets[i])) return JS_EXCEPTION;
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    for (int word = 0; word < 2; word++) {
        data[word].effective = (uint32_t)((uint64_t)sets[0] >> (32 * word));
        data[word].permitted = (uint32_t)((uint64_t)sets[1] >> (32 * word));
        data[word].inheritable = (uint32_t)((uint64_t)sets[2] >> (32 * word));
    }
    return sys_done(ctx, "capset", syscall(SYS_capset, &header, data));
}

/* capget(): [effective, permitted, inheritable] as BigInts */
SYS_IMPL(js_capget) {
    SYS_UNUSED;
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    if (syscall(SYS_capget, &header, data) < 0) return sys_throw(ctx, "capget");
    JSValue sets = JS_NewArray(ctx);
    JS_SetPropertyUint32(ctx, sets, 0,
                         JS_NewBigUint64(ctx, data[0].effective | (uint64_t)data[1].effective << 32));
    JS_SetPropertyUint32(ctx, sets, 1,
                         JS_NewBigUint64(ctx, data[0].permitted | (uint64_t)data[1].permitted << 32));
    JS_SetPropertyUint32(ctx, sets, 2,
                         JS_NewBigUint64(ctx, data[0].inheritable | (uint64_t)data[1].inheritable << 32));
    return sets;
}

/* limitBoundingSet(kept): drops every other capability from the bounding set. Bits as for capset. */
SYS_IMPL(js_limit_bounding_set) {
    SYS_UNUSED;
    SYS_ARG_I64(kept, 0);
    for (int number = 0; number < 64; number++) {
        if ((uint64_t)kept >> number & 1 || prctl(PR_CAPBSET_DROP, number, 0, 0, 0) == 0) continue;
        /* The first number that the kernel does not know ends the range. */
        return errno == EINVAL ? JS_UNDEFINED : sys_throw(ctx, "prctl PR_CAPBSET_DROP");
    }
    return JS_UNDEFINED;
}

/* setUser(uid, gid, additionalGids): real, effective, saved and file system ids, gids first */
SYS_IMPL(js_set_user) {
    SYS_UNUSED;
    SYS_ARG_I64(uid, 0);
    SYS_ARG_I64(gid, 1);
    uint32_t length = 0;
    JSValue length_value = JS_GetPropertyStr(ctx, argv[2], "length");
    int failed = JS_IsException(length_value) || JS_ToUint32(ctx, &length, length_value);
    JS_FreeValue(ctx, length_value);
    if (failed) return JS_EXCEPTION;
    if (length > 65536) return sys_throw_errno(ctx, "setgroups", EINVAL); /* NGROUPS_MAX, linux/limits.h */
    gid_t *groups = js_mallocz(ctx, (length + 1) * sizeof *groups);
    if (!groups) return JS_EXCEPTION;
    for (uint32_t i = 0; i < length && !failed; i++) {
        JSValue item = JS_GetPropertyUint32(ctx, argv[2], i);
        failed = JS_IsException(item) || JS_ToUint32(ctx, &groups[i], item);
        JS_FreeValue(ctx, item);
    }
    /* The system calls themselves: the process has one thread, and libc's view of threads is stale after clone3. */
    const char *call = NULL;
    if (!failed) {
        if (syscall(SYS_setgroups, (size_t)length, groups) < 0) call = "setgroups";
        else if (syscall(SYS_setresgid, (gid_t)gid, (gid_t)gid, (gid_t)gid) < 0) call = "setresgid";
        else if (syscall(SYS_setresuid, (uid_t)uid, (uid_t)uid, (uid_t)uid) < 0) call = "setresuid";
    }
    int error = errno;
    js_free(ctx, groups);
    if (failed) return JS_EXCEPTION;
    return call ? sys_throw_errno(ctx, call, error) : JS_UNDEFINED;
}

/* setRlimit(resource, soft, hard): BigInts, 2^64-1 is "unlimited" */
SYS_IMPL(js_set_rlimit) {
    SYS_UNUSED;
    SYS_ARG_I32(resource, 0);
    SYS_ARG_I64(soft, 1);
    SYS_ARG_I64(hard, 2);
    const uint64_t limit[2] = {(uint64_t)soft, (uint64_t)hard}; /* struct rlimit64 */
    return sys_done(ctx, "prlimit", syscall(SYS_prlimit64, 0, resource, limit, NULL));
}

/* setPersonality(persona) */
SYS_IMPL(js_set_personality) {
    SYS_UNUSED;
    SYS_ARG_I64(persona, 0);
    return sys_done(ctx, "personality", syscall(SYS_personality, (unsigned long)persona));
}

/* setIoPriority(value): IOPRIO_PRIO_VALUE of linux/ioprio.h for the calling process */
SYS_IMPL(js_set_io_priority) {
    SYS_UNUSED;
    SYS_ARG_I32(value, 0);
    return sys_done(ctx, "ioprio_set", syscall(SYS_ioprio_set, 1 /* IOPRIO_WHO_PROCESS */, 0, value));
}

/* setScheduler(policy, flags, nice, priority, runtimeNs, deadlineNs, periodNs) */
SYS_IMPL(js_set_scheduler) {
    SYS_UNUSED;
    int64_t field[7];
    for (int i = 0; i < 7; i++)
        if (sys_i64(ctx, argv[i], &field[i])) return JS_EXCEPTION;
    struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
    } attributes = {/* struct sched_attr, SCHED_ATTR_SIZE_VER0, linux/sched/types.h */
                    48,
                    (uint32_t)field[0],
                    (uint64_t)field[1],
                    (int32_t)field[2],
                    (uint32_t)field[3],
                    (uint64_t)field[4],
                    (uint64_t)field[5],
                    (uint64_t)field[6]};
    _Static_assert(sizeof attributes == 48, "size of sched_attr");
    return sys_done(ctx, "sched_setattr", syscall(SYS_sched_setattr, 0, &attributes, 0));
}

/*
 * holdPidNamespace(name): the first process of a pid namespace that several containers share. Adopts and reaps the
 * orphans of all of them and ignores every other signal; ends with its parent. Never returns.
 */
SYS_IMPL(js_hold_pid_namespace) {
    SYS_UNUSED;
    SYS_ARG_STR(name, 0);
    prctl(PR_SET_NAME, name.s);
    /* What `ps` shows as the command line is the memory of argv, which is contiguous (fs/exec.c). */
    char *first = runtime_argv[0], *last = runtime_argv[runtime_argc - 1];
    size_t room = (size_t)(last + strlen(last) + 1 - first);
    memset(first, 0, room);
    snprintf(first, room, "%s", name.s);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    sigset_t all, child;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    for (;;) {
        while (waitpid(-1, NULL, WNOHANG) > 0) continue;
        sigwaitinfo(&child, NULL);
    }
}

static const JSCFunctionListEntry container_functions[] = {
    SYS_FN("unshare", 1, js_unshare),
    SYS_FN("setns", 2, js_setns),
    SYS_FN("pivotRoot", 2, js_pivot_root),
    SYS_FN("closeRange", 2, js_close_range),
    SYS_FN("capset", 3, js_capset),
    SYS_FN("capget", 0, js_capget),
    SYS_FN("limitBoundingSet", 1, js_limit_bounding_set),
    SYS_FN("setUser", 3, js_set_user),
    SYS_FN("setRlimit", 3, js_set_rlimit),
    SYS_FN("setPersonality", 1, js_set_personality),
    SYS_FN("setIoPriority", 1, js_set_io_priority),
    SYS_FN("setScheduler", 7, js_set_scheduler),
    SYS_FN("holdPidNamespace", 1, js_hold_pid_namespace),
};
SYS_TABLE(container_functions)
