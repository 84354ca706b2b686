/*
 * bpf(2) for the device filter of a container's cgroup. The program is assembled in src/container/device-filter.ts.
 */
#include "sys.h"

#include <linux/bpf.h>
#include <sys/syscall.h>

/* bpfLoadDeviceFilter(instructions): descriptor of a BPF_PROG_TYPE_CGROUP_DEVICE program */
SYS_IMPL(js_bpf_load) {
    SYS_UNUSED;
    struct sys_buf code;
    if (sys_buf(ctx, argv[0], &code)) return JS_EXCEPTION;
    static const char license[] = "Apache-2.0";
    union bpf_attr attr;
    memset(&attr, 0, sizeof attr);
    attr.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
    attr.insns = (uint64_t)(uintptr_t)code.data;
    attr.insn_cnt = (uint32_t)(code.length / sizeof(struct bpf_insn));
    attr.license = (uint64_t)(uintptr_t)license;
    return sys_result(ctx, "bpf BPF_PROG_LOAD", SYS_RETRY(syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof attr)));
}

/* bpfAttachDeviceFilter(program, cgroup, replaced): replaced is the descriptor of the program it replaces, or -1 */
SYS_IMPL(js_bpf_attach) {
    SYS_UNUSED;
    SYS_ARG_I32(program, 0);
    SYS_ARG_I32(cgroup, 1);
    SYS_ARG_I32(replaced, 2);
    union bpf_attr attr;
    memset(&attr, 0, sizeof attr);
    attr.target_fd = (uint32_t)cgroup;
    attr.attach_bpf_fd = (uint32_t)program;
    attr.attach_type = BPF_CGROUP_DEVICE;
    attr.attach_flags = BPF_F_ALLOW_MULTI;
    if (replaced >= 0) {
        attr.attach_flags |= BPF_F_REPLACE;
        attr.replace_bpf_fd = (uint32_t)replaced;
    }
    return sys_done(ctx, "bpf BPF_PROG_ATTACH", SYS_RETRY(syscall(SYS_bpf, BPF_PROG_ATTACH, &attr, sizeof attr)));
}

static const JSCFunctionListEntry container_bpf_functions[] = {
    SYS_FN("bpfLoadDeviceFilter", 1, js_bpf_load),
    SYS_FN("bpfAttachDeviceFilter", 3, js_bpf_attach),
};
SYS_TABLE(container_bpf_functions)
