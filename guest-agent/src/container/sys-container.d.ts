/** The part of the native module "sys" that containers need (native/container*.c). Same rules as ../sys.d.ts. */
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
  /** Bit n is capability n of linux/capability.h. */
  export function capset(effective: bigint, permitted: bigint, inheritable: bigint): void;
  /** [effective, permitted, inheritable] of the calling process. */
  export function capget(): [bigint, bigint, bigint];
  /** Drops every capability that is not kept from the bounding set. Needs CAP_SETPCAP. */
  export function limitBoundingSet(kept: bigint): void;
  /** setgroups, setresgid, setresuid. */
  export function setUser(uid: number, gid: number, additionalGids: readonly number[]): void;
  /** 2^64-1 is unlimited. */
  export function setRlimit(resource: number, soft: bigint, hard: bigint): void;
  export function setPersonality(persona: number): void;
  /** IOPRIO_PRIO_VALUE of linux/ioprio.h. */
  export function setIoPriority(value: number): void;
  export function setScheduler(
    policy: number,
    flags: number,
    nice: number,
    priority: number,
    runtimeNs: bigint,
    deadlineNs: bigint,
    periodNs: bigint,
  ): void;
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
  /** SECCOMP_SET_MODE_FILTER for the calling process; SECCOMP_FILTER_FLAG_* bits. */
  export function seccompInstall(program: ProgramBytes, flags: number): void;

  // ---- native/container_bpf.c ----
  export function bpfLoadDeviceFilter(instructions: ProgramBytes): number;
  /** @param replaced descriptor of the attached program that this one replaces, or -1. */
  export function bpfAttachDeviceFilter(program: number, cgroup: number, replaced: number): void;
}
