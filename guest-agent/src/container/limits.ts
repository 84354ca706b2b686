/** rlimits, scheduling and personality of a process: names of the OCI spec to numbers of the kernel. Pure. */
import { SandboxError } from "../../../src/base/errors.ts";
import type { IoPrioritySpec, LinuxSpec, RlimitSpec, SchedulerSpec } from "./oci-spec.ts";

/** asm-generic/resource.h: the position is the number. */
const RESOURCES =
  "CPU FSIZE DATA STACK CORE RSS NPROC NOFILE MEMLOCK AS LOCKS SIGPENDING MSGQUEUE NICE RTPRIO RTTIME".split(
    " ",
  );
const PREFIX = "RLIMIT_";

/** The number of "RLIMIT_NOFILE" or "NOFILE". @throws ERR_SPEC */
export function rlimitNumber(type: string): number {
  const number = RESOURCES.indexOf(type.startsWith(PREFIX) ? type.slice(PREFIX.length) : type);
  if (number < 0) throw new SandboxError("ERR_SPEC", `process.rlimits: "${type}" is not a resource limit`);
  return number;
}

/** Resource, soft and hard limit of each. @throws ERR_SPEC */
export function limitNumbers(rlimits: readonly RlimitSpec[]): readonly (number | bigint)[] {
  const seen = new Set<number>();
  return rlimits.flatMap(({ type, soft, hard }) => {
    const number = rlimitNumber(type);
    if (seen.has(number)) throw new SandboxError("ERR_SPEC", `process.rlimits: ${type} is listed twice`);
    seen.add(number);
    return [number, soft, hard];
  });
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

/** The fields of struct sched_attr behind its size; none leaves the policy as it is. @throws ERR_SPEC */
export function schedulerFields(spec: SchedulerSpec | undefined): readonly (number | bigint)[] {
  if (spec === undefined) return [];
  const policy = lookUp(POLICIES, spec.policy, "process.scheduler.policy");
  const flags = spec.flags.reduce(
    (bits, name) => bits | lookUp(SCHEDULER_FLAGS, name, "process.scheduler.flags"),
    0,
  );
  return [policy, flags, spec.nice, spec.priority, spec.runtime, spec.deadline, spec.period];
}

/** linux/ioprio.h: IOPRIO_CLASS_RT, _BE, _IDLE and IOPRIO_CLASS_SHIFT. */
const IO_CLASSES: Readonly<Record<string, number>> = {
  IOPRIO_CLASS_RT: 1,
  IOPRIO_CLASS_BE: 2,
  IOPRIO_CLASS_IDLE: 3,
};
const IO_CLASS_SHIFT = 13;

/** IOPRIO_PRIO_VALUE; -1 leaves it as it is. @throws ERR_SPEC */
export function ioPriorityValue(spec: IoPrioritySpec | undefined): number {
  if (spec === undefined) return -1;
  const kind = lookUp(IO_CLASSES, spec.class, "process.ioPriority.class");
  return (kind << IO_CLASS_SHIFT) | (spec.priority & 0x7);
}

/** linux/personality.h. */
const DOMAINS: Readonly<Record<string, number>> = { LINUX: 0x0000, LINUX32: 0x0008 };

/** -1 leaves it as it is. The spec defines no flags yet. @throws ERR_SPEC */
export function personalityNumber(spec: LinuxSpec["personality"]): number {
  return spec === undefined ? -1 : lookUp(DOMAINS, spec.domain, "linux.personality.domain");
}

function lookUp(table: Readonly<Record<string, number>>, name: string, key: string): number {
  const value = table[name];
  if (value !== undefined) return value;
  throw new SandboxError(
    "ERR_SPEC",
    `${key}: "${name}" is not known; it may be ${Object.keys(table).join(", ")}`,
  );
}
