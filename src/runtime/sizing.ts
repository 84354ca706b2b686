/**
 * How large the machine is made: a base for the guest itself plus what the pod (its annotations) or, without a pod,
 * the single container (its OCI resources) may use. Where nothing limits the workload, the base alone. A RuntimeClass
 * that declares more for the pod than the base raises the base.
 */
import type { OciSpec } from "../oci/spec.ts";

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

interface WorkloadLimits {
  /** Whole and partial cpus; undefined for no limit. */
  readonly cpus: number | undefined;
  readonly memoryBytes: number | undefined;
}

const MIB = 1 << 20;

/** The size within `limits` for the sandbox whose first container has `spec`. */
export function machineSize(spec: OciSpec, limits: SizeLimits): MachineSize {
  const workload = podLimits(spec.annotations ?? {}) ?? containerLimits(spec);
  const cpus =
    workload.cpus === undefined ? limits.baseCpus : Math.max(limits.baseCpus, Math.ceil(workload.cpus));
  const extra = toMiB(workload.memoryBytes);
  const base = Math.max(limits.baseMemoryMiB, toMiB(overheadBytes(spec.annotations ?? {})));
  return {
    cpus: Math.min(cpus, limits.maxCpus),
    // An even number keeps memory blocks and huge pages aligned.
    memoryMiB: Math.min(roundUp(base + extra, 2), limits.maxMemoryMiB),
  };
}

const toMiB = (bytes: number | undefined): number => Math.ceil((bytes ?? 0) / MIB);
const roundUp = (value: number, multiple: number): number => Math.ceil(value / multiple) * multiple;

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

function containerLimits(spec: OciSpec): WorkloadLimits {
  const { cpu, memory } = spec.linux?.resources ?? {};
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
