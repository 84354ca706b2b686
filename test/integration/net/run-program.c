/*
 * Runs a tc program once: its instructions on stdin, `run-program TIMESTAMP LENGTH` as arguments. The frame has LENGTH
 * bytes and the receive timestamp TIMESTAMP. Prints what the program returned and the timestamp behind it.
 */
#include <errno.h>
#include <linux/bpf.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int fail(const char *what) {
  fprintf(stderr, "%s: %s\n", what, strerror(errno));
  return 1;
}

int main(int argc, char **argv) {
  static uint8_t code[4096], frame[65536], log[65536];
  if (argc != 3) return 2;
  size_t length = fread(code, 1, sizeof code, stdin);

  union bpf_attr load = {.prog_type = BPF_PROG_TYPE_SCHED_CLS};
  load.insn_cnt = (uint32_t)(length / sizeof(struct bpf_insn));
  load.insns = (uint64_t)(uintptr_t)code;
  load.license = (uint64_t)(uintptr_t) "GPL";
  load.log_level = 1;
  load.log_buf = (uint64_t)(uintptr_t)log;
  load.log_size = sizeof log;
  long fd = syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof load);
  if (fd < 0) return fail((char *)log);

  struct __sk_buff before = {.tstamp = strtoull(argv[1], NULL, 10)}, behind = {0};
  frame[12] = 0x08; /* ETH_P_IP; without it the kernel refuses a frame of no protocol */
  union bpf_attr run = {0};
  run.test.prog_fd = (uint32_t)fd;
  run.test.data_in = (uint64_t)(uintptr_t)frame;
  run.test.data_size_in = (uint32_t)strtoul(argv[2], NULL, 10);
  run.test.ctx_in = (uint64_t)(uintptr_t)&before;
  run.test.ctx_size_in = sizeof before;
  run.test.ctx_out = (uint64_t)(uintptr_t)&behind;
  run.test.ctx_size_out = sizeof behind;
  if (syscall(SYS_bpf, BPF_PROG_TEST_RUN, &run, sizeof run) < 0) return fail("BPF_PROG_TEST_RUN");
  printf("%u %llu\n", run.test.retval, (unsigned long long)behind.tstamp);
  return 0;
}
