/**
 * OCI resources, which are those of cgroup v1, as writes to cgroup v2 files
 * (Documentation/admin-guide/cgroup-v2.rst). Pure.
 */
import { sharesToWeight } from "../../../src/base/cpu-weight.ts";
import { SandboxError } from "../../../src/base/errors.ts";
import type { ResourceSpec, ThrottleSpec } from "./oci-spec.ts";

export interface CgroupWrite {
  /** File in the container's cgroup. */
  readonly file: string;
  readonly value: string;
  /** False: a weight or hint, left out with a log line where the guest's kernel lacks the controller. */
  readonly required: boolean;
}

const DEFAULT_PERIOD_US = 100_000n;

/** blkio weight (10 to 1000) as io.weight (1 to 10000), linearly, as runc and crun document. */
export function blockWeightToIoWeight(weight: number): number {
  return 1 + Math.trunc(((weight - 10) * 9999) / 990);
}

/**
 * @param cpuMax the present content of cpu.max, for an update that names only one of quota and period.
 * @throws ERR_SPEC for a combination that version 2 cannot express.
 */
export function planResources(spec: ResourceSpec, cpuMax = "max 100000"): readonly CgroupWrite[] {
  return [
    ...planMemory(spec.memory),
    ...planCpu(spec.cpu, cpuMax),
    ...planPids(spec.pids),
    ...planIo(spec.blockIO),
    ...planHugepages(spec.hugepageLimits),
    ...planUnified(spec.unified),
  ];
}

const required = (file: string, value: string): CgroupWrite => ({ file, value, required: true });
const hint = (file: string, value: string): CgroupWrite => ({ file, value, required: false });
const limit = (value: bigint): string => (value < 0n ? "max" : String(value));

function planMemory(memory: ResourceSpec["memory"]): readonly CgroupWrite[] {
  if (memory === undefined) return [];
  const writes: CgroupWrite[] = [];
  const bound = memory.limit === 0n ? undefined : memory.limit;
  const swap = swapMax(bound, memory.swap === 0n ? undefined : memory.swap);
  if (swap !== undefined)
    writes.push({ file: "memory.swap.max", value: swap, required: bound === undefined });
  if (bound !== undefined) writes.push(required("memory.max", limit(bound)));
  const low = memory.reservation;
  if (low !== undefined && low !== 0n) writes.push(hint("memory.low", limit(low)));
  return writes;
}

/** The spec's swap is memory plus swap; version 2 counts swap alone. */
function swapMax(bound: bigint | undefined, swap: bigint | undefined): string | undefined {
  if (swap === undefined) return bound !== undefined && bound < 0n ? "max" : undefined;
  if (swap < 0n) return "max";
  if (bound === undefined || bound < 0n) {
    throw new SandboxError("ERR_SPEC", "linux.resources.memory: a swap limit needs a memory limit beside it");
  }
  if (swap < bound) {
    throw new SandboxError(
      "ERR_SPEC",
      `linux.resources.memory: swap (${swap}) is memory plus swap and cannot be below limit (${bound})`,
    );
  }
  return String(swap - bound);
}

function planCpu(cpu: ResourceSpec["cpu"], cpuMax: string): readonly CgroupWrite[] {
  if (cpu === undefined) return [];
  const writes: CgroupWrite[] = [];
  if (cpu.idle !== undefined) writes.push(hint("cpu.idle", String(cpu.idle)));
  if (cpu.shares !== undefined && cpu.shares !== 0n && !(cpu.idle === 1n)) {
    writes.push(hint("cpu.weight", String(sharesToWeight(cpu.shares))));
  }
  const quota = cpu.quota === 0n ? undefined : cpu.quota;
  const period = cpu.period === 0n ? undefined : cpu.period;
  if (quota !== undefined || period !== undefined) {
    const [presentQuota = "max", presentPeriod = String(DEFAULT_PERIOD_US)] = cpuMax.trim().split(" ");
    const value = `${quota === undefined ? presentQuota : limit(quota)} ${period ?? presentPeriod}`;
    // "No limit" is what a kernel without bandwidth control does anyway.
    writes.push({ file: "cpu.max", value, required: !value.startsWith("max") });
  }
  if (cpu.burst !== undefined) writes.push(hint("cpu.max.burst", String(cpu.burst)));
  if (cpu.cpus !== "") writes.push(required("cpuset.cpus", cpu.cpus));
  if (cpu.mems !== "") writes.push(required("cpuset.mems", cpu.mems));
  return writes;
}

function planPids(pids: ResourceSpec["pids"]): readonly CgroupWrite[] {
  const bound = pids?.limit;
  if (bound === undefined || bound === 0n) return [];
  return [{ file: "pids.max", value: limit(bound), required: bound > 0n }];
}

function planIo(io: ResourceSpec["blockIO"]): readonly CgroupWrite[] {
  if (io === undefined) return [];
  const throttles = (list: ThrottleSpec, key: string): readonly CgroupWrite[] =>
    list.map(({ major, minor, rate }) =>
      required("io.max", `${major}:${minor} ${key}=${rate === 0n ? "max" : limit(rate)}`),
    );
  const weight = io.weight ?? 0;
  return [
    ...(weight === 0 ? [] : [hint("io.weight", `default ${blockWeightToIoWeight(weight)}`)]),
    ...throttles(io.throttleReadBpsDevice, "rbps"),
    ...throttles(io.throttleWriteBpsDevice, "wbps"),
    ...throttles(io.throttleReadIOPSDevice, "riops"),
    ...throttles(io.throttleWriteIOPSDevice, "wiops"),
  ];
}

function planHugepages(limits: ResourceSpec["hugepageLimits"]): readonly CgroupWrite[] {
  return limits.flatMap(({ pageSize, limit: bytes }) => {
    if (!/^\d+[KMG]B$/.test(pageSize)) {
      throw new SandboxError(
        "ERR_SPEC",
        `linux.resources.hugepageLimits: "${pageSize}" is not a page size such as 2MB`,
      );
    }
    return [
      required(`hugetlb.${pageSize}.max`, limit(bytes)),
      // Reservations of mmap without touching; absent before Linux 5.7.
      hint(`hugetlb.${pageSize}.rsvd.max`, limit(bytes)),
    ];
  });
}

/** `unified` names files of the cgroup itself and wins over what was worked out from the other fields. */
function planUnified(unified: ResourceSpec["unified"]): readonly CgroupWrite[] {
  return [...unified].flatMap(([file, value]) => {
    if (!/^[a-z0-9_]+(\.[A-Za-z0-9_]+)+$/.test(file) || file.startsWith("cgroup.")) {
      throw new SandboxError(
        "ERR_SPEC",
        `linux.resources.unified: "${file}" is not a file of a resource controller`,
      );
    }
    return value
      .split("\n")
      .filter((line) => line !== "")
      .map((line) => required(file, line));
  });
}

/**
 * Memory that the set-up of a process may take in its container's cgroup. A smaller memory.max is applied only when
 * the program runs, or it would kill our own child, a copy of the agent, before that.
 */
export const SETUP_MEMORY_FLOOR = 32n << 20n;

/** Files that make the kernel reclaim or kill when usage is above them. */
const CAPS = new Set(["memory.max", "memory.high"]);

/** What to write before the first process is cloned, and what once it runs its program. */
export function splitForSetup(writes: readonly CgroupWrite[]): {
  readonly before: readonly CgroupWrite[];
  readonly after: readonly CgroupWrite[];
} {
  const tight = writes.filter(({ file, value }) => CAPS.has(file) && isTight(value));
  const before = writes.map((write) =>
    tight.includes(write) ? { ...write, value: String(SETUP_MEMORY_FLOOR) } : write,
  );
  return { before, after: tight };
}

function isTight(value: string): boolean {
  return /^\d+$/.test(value) && BigInt(value) < SETUP_MEMORY_FLOOR;
}
