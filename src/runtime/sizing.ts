/**
 * How large the machine is made: a base for the guest itself plus what the pod (its annotations) or, without a pod,
 * the single container (its OCI resources) may use. Where nothing limits the workload, the base alone. A RuntimeClass
 * that declares more for the pod than the base raises the base. How large it becomes: the base plus what its containers
 * may use (pod-size.ts).
 */
import type { OciResources, OciSpec } from "../oci/spec.ts";

export interface MachineSize {
  readonly cpus: number;
  readonly memoryMiB: number;
}

export interface SizeLimits {
  readonly baseCpus: number;
  readonly baseMemoryMiB: number;
  readonly maxCpus: number;
  readonly maxMemoryMiB: number;
}

export interface WorkloadLimits {
  /** Whole and partial cpus; undefined for no limit. */
  readonly cpus: number | undefined;
  readonly memoryBytes: number | undefined;
}

const MIB = 1 << 20;

/** The size within `limits` for the sandbox whose first container has `spec`. */
export function machineSize(spec: OciSpec, limits: SizeLimits): MachineSize {
  const workload = podLimits(spec.annotations ?? {}) ?? containerLimits(spec.linux?.resources);
  const { cpus, memoryMiB } = sizeFor([workload], podSizeLimits(spec, limits));
  return { cpus: Math.min(cpus, limits.maxCpus), memoryMiB: Math.min(memoryMiB, limits.maxMemoryMiB) };
}

/** Linux on x86 takes memory in blocks of this size (MIN_MEMORY_BLOCK_SIZE, arch/x86/mm/init_64.c). */
export const MEMORY_BLOCK_MIB = 128;

/** `limits` with the most memory that a machine started with `boot` can come to: whole blocks more than it has. */
export function growthLimits(boot: MachineSize, limits: SizeLimits): SizeLimits {
  const blocks = Math.floor((limits.maxMemoryMiB - boot.memoryMiB) / MEMORY_BLOCK_MIB);
  return { ...limits, maxMemoryMiB: boot.memoryMiB + blocks * MEMORY_BLOCK_MIB };
}

/** `limits` with the base that the pod of `spec` has. */
export function podSizeLimits(spec: OciSpec, limits: SizeLimits): SizeLimits {
  const overhead = toMiB(overheadBytes(spec.annotations ?? {}));
  return { ...limits, baseMemoryMiB: Math.max(limits.baseMemoryMiB, overhead) };
}

/** The size that containers with these limits need together, whether the machine may have it or not. */
export function sizeFor(containers: readonly WorkloadLimits[], limits: SizeLimits): MachineSize {
  const sum = (values: readonly (number | undefined)[]) =>
    values.reduce<number>((total, value) => total + (value ?? 0), 0);
  return {
    cpus: Math.max(limits.baseCpus, Math.ceil(sum(containers.map(({ cpus }) => cpus)))),
    // An even number keeps memory blocks and huge pages aligned.
    memoryMiB: roundUp(
      limits.baseMemoryMiB + toMiB(sum(containers.map(({ memoryBytes }) => memoryBytes))),
      2,
    ),
  };
}

const toMiB = (bytes: number | undefined): number => Math.ceil((bytes ?? 0) / MIB);
export const roundUp = (value: number, multiple: number): number => Math.ceil(value / multiple) * multiple;

/** containerd pkg/cri/annotations and CRI-O pkg/annotations; undefined when neither runtime gave any. */
function podLimits(annotations: Readonly<Record<string, string>>): WorkloadLimits | undefined {
  const crio =
    annotations["pod-linux-resources.crio.io"] ?? annotations["io.kubernetes.cri-o.PodLinuxResources"];
  if (crio !== undefined) return crioLimits(crio);
  const number = (name: string) => positive(annotations[`io.kubernetes.cri.sandbox-${name}`]);
  const memoryBytes = number("memory");
  const cpus = quotaCpus(number("cpu-quota"), number("cpu-period"));
  return memoryBytes === undefined && cpus === undefined ? undefined : { cpus, memoryBytes };
}

/** The memory of the RuntimeClass's overhead; only CRI-O tells it. */
function overheadBytes(annotations: Readonly<Record<string, string>>): number | undefined {
  const crio =
    annotations["pod-linux-overhead.crio.io"] ?? annotations["io.kubernetes.cri-o.PodLinuxOverhead"];
  return crio === undefined ? undefined : crioLimits(crio)?.memoryBytes;
}

/**
 * CPU time that the processes around the guest get on the host beside what the containers may use, in cpus: what a
 * RuntimeClass of this kind usually declares as overhead.
 */
const OVERHEAD_CPUS = 0.25;

/** The host's limit for a sandbox whose containers may use `cpus`; undefined: none. */
export function hostQuota(cpus: number | undefined): { quotaUs: number | undefined; periodUs: number } {
  const quotaUs = cpus && Math.ceil((cpus + OVERHEAD_CPUS) * DEFAULT_PERIOD_US);
  return { quotaUs, periodUs: DEFAULT_PERIOD_US };
}

/** JSON of the CRI message LinuxContainerResources. */
function crioLimits(json: string): WorkloadLimits | undefined {
  let value: Record<string, unknown> | null;
  try {
    value = JSON.parse(json) as Record<string, unknown> | null;
  } catch {
    return undefined;
  }
  if (value === null) return undefined;
  return {
    cpus: quotaCpus(positive(value.cpu_quota), positive(value.cpu_period)),
    memoryBytes: positive(value.memory_limit_in_bytes),
  };
}

export function containerLimits(resources: OciResources | undefined): WorkloadLimits {
  const { cpu, memory } = resources ?? {};
  return {
    cpus: quotaCpus(positive(cpu?.quota), positive(cpu?.period)),
    memoryBytes: positive(memory?.limit),
  };
}

/** The kernel's default period is 100 ms (Documentation/scheduler/sched-bwc.rst). */
const DEFAULT_PERIOD_US = 100_000;

const quotaCpus = (quota: number | undefined, period: number | undefined): number | undefined =>
  quota === undefined ? undefined : quota / (period ?? DEFAULT_PERIOD_US);

/** Kubernetes writes "no limit" as 0, -1 or the largest page-aligned number. */
const NO_LIMIT = 2 ** 60;
function positive(value: unknown): number | undefined {
  const number = Number(value);
  return Number.isFinite(number) && number > 0 && number < NO_LIMIT ? number : undefined;
}
