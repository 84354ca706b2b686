/** rlimits, scheduling and personality of a process: names of the OCI spec to numbers of the kernel. */
import * as sys from "sys";
import { SandboxError } from "../../../src/base/errors.ts";
import type { IoPrioritySpec, LinuxSpec, RlimitSpec, SchedulerSpec } from "./oci-spec.ts";

/** asm-generic/resource.h: the position is the number. */
const RESOURCES =
  "CPU FSIZE DATA STACK CORE RSS NPROC NOFILE MEMLOCK AS LOCKS SIGPENDING MSGQUEUE NICE RTPRIO RTTIME".split(
    " ",
  );

const NUMBERS: ReadonlyMap<string, number> = new Map(
  RESOURCES.flatMap((name, number) => [[`RLIMIT_${name}`, number] as const, [name, number] as const]),
);

/** The number of "RLIMIT_NOFILE". @throws ERR_SPEC */
export function rlimitNumber(type: string): number {
  const number = NUMBERS.get(type);
  if (number === undefined)
    throw new SandboxError("ERR_SPEC", `process.rlimits: "${type}" is not a resource limit`);
  return number;
}

/** @throws ERR_SPEC, or ERR_START_PROCESS when the kernel refuses a limit. */
export function applyRlimits(rlimits: readonly RlimitSpec[]): void {
  const seen = new Set<number>();
  for (const { type, soft, hard } of rlimits) {
    const number = rlimitNumber(type);
    if (seen.has(number)) throw new SandboxError("ERR_SPEC", `process.rlimits: ${type} is listed twice`);
    seen.add(number);
    try {
      sys.setRlimit(number, BigInt.asIntN(64, soft), BigInt.asIntN(64, hard));
    } catch (error) {
      throw new SandboxError("ERR_START_PROCESS", `cannot set ${type} to ${soft} (soft) and ${hard} (hard)`, {
        cause: error,
      });
    }
  }
}

/** linux/sched.h SCHED_*. */
const POLICIES: Readonly<Record<string, number>> = {
  SCHED_OTHER: 0,
  SCHED_FIFO: 1,
  SCHED_RR: 2,
  SCHED_BATCH: 3,
  SCHED_ISO: 4,
  SCHED_IDLE: 5,
  SCHED_DEADLINE: 6,
};

/** linux/sched.h SCHED_FLAG_*. */
const SCHEDULER_FLAGS: Readonly<Record<string, number>> = {
  SCHED_FLAG_RESET_ON_FORK: 0x01,
  SCHED_FLAG_RECLAIM: 0x02,
  SCHED_FLAG_DL_OVERRUN: 0x04,
  SCHED_FLAG_KEEP_POLICY: 0x08,
  SCHED_FLAG_KEEP_PARAMS: 0x10,
  SCHED_FLAG_UTIL_CLAMP_MIN: 0x20,
  SCHED_FLAG_UTIL_CLAMP_MAX: 0x40,
};

/** @throws ERR_SPEC for an unknown name, ERR_START_PROCESS when the kernel refuses. */
export function applyScheduler(spec: SchedulerSpec | undefined): void {
  if (spec === undefined) return;
  const policy = lookUp(POLICIES, spec.policy, "process.scheduler.policy");
  const flags = spec.flags.reduce(
    (bits, name) => bits | lookUp(SCHEDULER_FLAGS, name, "process.scheduler.flags"),
    0,
  );
  try {
    sys.setScheduler(policy, flags, spec.nice, spec.priority, spec.runtime, spec.deadline, spec.period);
  } catch (error) {
    throw new SandboxError("ERR_START_PROCESS", `cannot set the scheduling policy ${spec.policy}`, {
      cause: error,
    });
  }
}

/** linux/ioprio.h: IOPRIO_CLASS_RT, _BE, _IDLE and IOPRIO_CLASS_SHIFT. */
const IO_CLASSES: Readonly<Record<string, number>> = {
  IOPRIO_CLASS_RT: 1,
  IOPRIO_CLASS_BE: 2,
  IOPRIO_CLASS_IDLE: 3,
};
const IO_CLASS_SHIFT = 13;

export function applyIoPriority(spec: IoPrioritySpec | undefined): void {
  if (spec === undefined) return;
  const kind = lookUp(IO_CLASSES, spec.class, "process.ioPriority.class");
  try {
    sys.setIoPriority((kind << IO_CLASS_SHIFT) | (spec.priority & 0x7));
  } catch (error) {
    throw new SandboxError("ERR_START_PROCESS", `cannot set the IO priority ${spec.class}`, { cause: error });
  }
}

/** linux/personality.h. */
const DOMAINS: Readonly<Record<string, number>> = { LINUX: 0x0000, LINUX32: 0x0008 };

/** @throws ERR_SPEC; the spec defines no flags yet. */
export function applyPersonality(spec: LinuxSpec["personality"]): void {
  if (spec === undefined) return;
  sys.setPersonality(lookUp(DOMAINS, spec.domain, "linux.personality.domain"));
}

function lookUp(table: Readonly<Record<string, number>>, name: string, key: string): number {
  const value = table[name];
  if (value !== undefined) return value;
  throw new SandboxError(
    "ERR_SPEC",
    `${key}: "${name}" is not known; it may be ${Object.keys(table).join(", ")}`,
  );
}
