/** The part of the native module "sys" that containers need (native/container*.c, terminal.c, spawner.c). Same rules as ../sys.d.ts. */
declare module "sys" {
  type ProgramBytes = Uint8Array | ArrayBuffer;

  // ---- native/container.c ----
  /** CLONE_NEW* bits. */
  export function unshare(flags: number): void;
  /** A namespace descriptor, or a pidfd with the CLONE_NEW* bits to take from that process. */
  export function setns(fd: number, flags: number): void;
  export function pivotRoot(newRoot: string, putOld: string): void;
  /** Closes what is open in [first, last]. */
  export function closeRange(first: number, last: number): void;
  /** [effective, permitted, inheritable] of the calling process. */
  export function capget(): [bigint, bigint, bigint];
  /** oom_score_adj of the calling process; needs the agent's /proc. */
  export function setOomScore(score: number): void;
  /**
   * What a child does before its program runs; native/become.c carries it out. Sets are masks: bit n is capability n of
   * linux/capability.h. Where a number may be -1 that leaves things as they are.
   */
  export interface ProcessPlan {
    readonly uid: number;
    readonly gid: number;
    readonly umask: number;
    readonly groups: readonly number[];
    readonly bounding: bigint;
    readonly effective: bigint;
    readonly permitted: bigint;
    readonly inheritable: bigint;
    readonly ambient: bigint;
    /** Resource, soft and hard limit of each; 2^64-1 is unlimited. */
    readonly limits: readonly (number | bigint)[];
    /** IOPRIO_PRIO_VALUE of linux/ioprio.h, or -1. */
    readonly ioPriority: number;
    /** Policy, flags, nice, priority, runtime, deadline, period of struct sched_attr; or none. */
    readonly scheduler: readonly (number | bigint)[];
    readonly personality: number;
    readonly noNewPrivileges: boolean;
    /** The seccomp filter with its SECCOMP_FILTER_FLAG_*. */
    readonly filter: ProgramBytes | undefined;
    readonly filterFlags: number;
    /** HOME is looked up, unless /etc/passwd is in the state `passwd`: then it is `home`. */
    readonly needsHome: boolean;
    readonly passwd: string;
    readonly home: string;
    readonly terminal: boolean;
    /** Of the terminal, and the OOM score: only for spawnProcess. */
    readonly rows: number;
    readonly columns: number;
    readonly oomScore: number;
    readonly cwd: string;
    readonly args: readonly string[];
    readonly env: readonly string[];
    /** Paths of the program, of which the first that can be executed is taken. */
    readonly candidates: readonly string[];
  }
  /**
   * The calling process becomes the plan's; returns only when that fails, with where it stopped (JSON, see
   * process-plan.ts). Descriptors are above 2; -1 is /dev/null, or no tools.
   */
  export function becomeProcess(
    plan: ProcessPlan,
    stdin: number,
    stdout: number,
    stderr: number,
    tools: number,
  ): string;
  /** Is the first process of a shared pid namespace from now on: reaps orphans, ends with its parent. */
  export function holdPidNamespace(name: string): never;

  // ---- native/container_seccomp.c ----
  /** A libseccomp filter under construction; freed by the garbage collector. */
  export interface SeccompFilter {
    readonly seccompFilter: never;
  }
  export function seccompNew(defaultAction: number): SeccompFilter;
  /** False when libseccomp does not know the architecture ("x86_64", "aarch64", ...). */
  export function seccompAddArch(filter: SeccompFilter, name: string): boolean;
  /** Native number (negative: exists on other architectures only); undefined when unknown to libseccomp. */
  export function seccompResolve(name: string): number | undefined;
  /** `comparisons` is flat: argument index, SCMP_CMP_*, datum a, datum b for each of at most six. */
  export function seccompAddRule(
    filter: SeccompFilter,
    action: number,
    syscallNumber: number,
    comparisons: readonly (number | bigint)[],
  ): void;
  export function seccompExport(filter: SeccompFilter): ArrayBuffer;

  // ---- native/terminal.c ----
  /**
   * Unlocks the terminal of the open multiplexer, gives it a size unless that is 0, and opens its slave; undefined when
   * `master` is something else.
   */
  export function terminalSlave(master: number, rows: number, columns: number): number | undefined;

  // ---- native/spawner.c ----
  /**
   * A child of the agent that joins a container and becomes the plan's: its pid. The pid namespace is the container's too
   * if `joinsPid`. `container` is a pidfd, `channel` its end of the handshake; ends of stdio may be -1.
   * @throws for "setns" and "clone3" when the container is gone.
   */
  export function spawnProcess(
    plan: ProcessPlan,
    joinsPid: boolean,
    channel: number,
    container: number,
    cgroup: number,
    stdin: number,
    stdout: number,
    stderr: number,
  ): number;
  /** The process that clones them; another one when it had to be replaced. */
  export function spawnerPid(): number;

  // ---- native/container_bpf.c ----
  export function bpfLoadDeviceFilter(instructions: ProgramBytes): number;
  /** @param replaced descriptor of the attached program that this one replaces, or -1. */
  export function bpfAttachDeviceFilter(program: number, cgroup: number, replaced: number): void;
}
