/* Mounts (the classic calls and the descriptor-based ones of Linux 5.2 and 5.12) and kernel modules. */
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/syscall.h>

#include "sys.h"

SYS_IMPL(js_mount) {
    SYS_UNUSED;
    SYS_ARG_STR_OPT(source, 0);
    SYS_ARG_STR(target, 1);
    SYS_ARG_STR_OPT(type, 2);
    SYS_ARG_I64(flags, 3);
    SYS_ARG_STR_OPT(data, 4);
    return sys_done(ctx, "mount", mount(source.s, target.s, type.s, (unsigned long)flags, data.s));
}

SYS_IMPL(js_umount2) {
    SYS_UNUSED;
    SYS_ARG_STR(target, 0);
    SYS_ARG_I32(flags, 1);
    return sys_done(ctx, "umount2", umount2(target.s, flags));
}

SYS_IMPL(js_open_tree) {
    SYS_UNUSED;
    SYS_ARG_I32(dirfd, 0);
    SYS_ARG_STR(path, 1);
    SYS_ARG_I32(flags, 2);
    return sys_result(ctx, "open_tree", syscall(SYS_open_tree, dirfd, path.s, flags | OPEN_TREE_CLOEXEC));
}

SYS_IMPL(js_move_mount) {
    SYS_UNUSED;
    SYS_ARG_I32(from_dirfd, 0);
    SYS_ARG_STR(from, 1);
    SYS_ARG_I32(to_dirfd, 2);
    SYS_ARG_STR(to, 3);
    SYS_ARG_I32(flags, 4);
    return sys_done(ctx, "move_mount", syscall(SYS_move_mount, from_dirfd, from.s, to_dirfd, to.s, flags));
}

SYS_IMPL(js_mount_setattr) {
    SYS_UNUSED;
    SYS_ARG_I32(dirfd, 0);
    SYS_ARG_STR(path, 1);
    SYS_ARG_I32(flags, 2);
    SYS_ARG_I64(set, 3);
    SYS_ARG_I64(clear, 4);
    SYS_ARG_I64(propagation, 5);
    struct mount_attr attributes = {
        .attr_set = (uint64_t)set, .attr_clr = (uint64_t)clear, .propagation = (uint64_t)propagation};
    return sys_done(ctx, "mount_setattr",
                    syscall(SYS_mount_setattr, dirfd, path.s, flags, &attributes, sizeof attributes));
}

SYS_IMPL(js_fsopen) {
    SYS_UNUSED;
    SYS_ARG_STR(type, 0);
    return sys_result(ctx, "fsopen", syscall(SYS_fsopen, type.s, FSOPEN_CLOEXEC));
}

SYS_IMPL(js_fsconfig) {
    SYS_UNUSED;
    SYS_ARG_I32(fd, 0);
    SYS_ARG_I32(command, 1);
    SYS_ARG_STR_OPT(key, 2);
    SYS_ARG_STR_OPT(value, 3);
    SYS_ARG_I32(aux, 4);
    return sys_done(ctx, "fsconfig", syscall(SYS_fsconfig, fd, command, key.s, value.s, aux));
}

SYS_IMPL(js_fsmount) {
    SYS_UNUSED;
    SYS_ARG_I32(fd, 0);
    SYS_ARG_I32(attributes, 1);
    return sys_result(ctx, "fsmount", syscall(SYS_fsmount, fd, FSMOUNT_CLOEXEC, attributes));
}

SYS_IMPL(js_finit_module) {
    SYS_UNUSED;
    SYS_ARG_I32(fd, 0);
    SYS_ARG_STR(parameters, 1);
    SYS_ARG_I32(flags, 2);
    return sys_done(ctx, "finit_module", SYS_RETRY(syscall(SYS_finit_module, fd, parameters.s, flags)));
}

static const JSCFunctionListEntry mount_functions[] = {
    SYS_FN("mount", 5, js_mount),
    SYS_FN("umount2", 2, js_umount2),
    SYS_FN("openTree", 3, js_open_tree),
    SYS_FN("moveMount", 5, js_move_mount),
    SYS_FN("mountSetattr", 6, js_mount_setattr),
    SYS_FN("fsopen", 1, js_fsopen),
    SYS_FN("fsconfig", 5, js_fsconfig),
    SYS_FN("fsmount", 2, js_fsmount),
    SYS_FN("finitModule", 3, js_finit_module),
};
SYS_TABLE(mount_functions)
