/** Live figures of sandboxes: what the guests and the shims count, and what their processes take on the host. */
import type { ContainerStatsResponse } from "../gen/caisson/agent/v1/agent_pb.ts";
import type { StatsResponse } from "../gen/caisson/control/v1/control_pb.ts";
import { connectControl } from "./control-client.ts";
import { type ProcessUsage, usageByComponent } from "./processes.ts";
import { findSandboxes, type SandboxRecord } from "./sandbox-record.ts";

export interface SandboxSample {
  readonly record: SandboxRecord;
  /** performance.now() of the sample. */
  readonly atMs: number;
  /** Undefined when the shim did not answer; `problem` says why. */
  readonly stats: StatsResponse | undefined;
  readonly problem: string | undefined;
  /** By component. */
  readonly processes: ReadonlyMap<string, ProcessUsage>;
}

export async function sampleSandbox(record: SandboxRecord): Promise<SandboxSample> {
  let stats: StatsResponse | undefined;
  let problem: string | undefined;
  try {
    using control = await connectControl(record);
    stats = await control.calls.stats({});
    if (stats.guestError !== "") problem = stats.guestError;
  } catch (error) {
    problem = error instanceof Error ? error.message : String(error);
  }
  const processes = usageByComponent(record.processes);
  return { record, atMs: performance.now(), stats, problem, processes };
}

export function sampleAll(): Promise<SandboxSample[]> {
  return Promise.all(findSandboxes().map(sampleSandbox));
}

export interface ContainerUsage {
  readonly id: string;
  /** Of one CPU; undefined without an earlier sample. */
  readonly cpuPercent: number | undefined;
  readonly memoryBytes: number;
  /** 0 for none. */
  readonly memoryLimitBytes: number;
  readonly pids: number;
  readonly readBytes: number;
  readonly writtenBytes: number;
}

/** Limits beyond this are none: cgroup v2 says "max", which the agent sends as 2^64-1. */
const NO_LIMIT = 2 ** 60;

/** One container's figures, with the rate since `earlier`. Pure. */
export function containerUsage(
  id: string,
  now: ContainerStatsResponse,
  earlier: ContainerStatsResponse | undefined,
  elapsedMs: number,
): ContainerUsage {
  const cpuUs = Number(now.cpu?.usageUsec ?? 0n);
  const beforeUs = earlier?.cpu === undefined ? undefined : Number(earlier.cpu.usageUsec);
  const limit = Number(now.memory?.usageLimit ?? 0n);
  return {
    id,
    cpuPercent:
      beforeUs === undefined || elapsedMs <= 0 ? undefined : Math.max(0, cpuUs - beforeUs) / elapsedMs / 10,
    memoryBytes: Number(now.memory?.usage ?? 0n),
    memoryLimitBytes: limit > NO_LIMIT ? 0 : limit,
    pids: Number(now.pids?.current ?? 0n),
    readBytes: now.io.reduce((total, { rbytes }) => total + Number(rbytes), 0),
    writtenBytes: now.io.reduce((total, { wbytes }) => total + Number(wbytes), 0),
  };
}

/** Of one CPU, all processes of the sandbox together; undefined without an earlier sample. Pure. */
export function hostCpuPercent(now: SandboxSample, earlier: SandboxSample | undefined): number | undefined {
  if (earlier === undefined || now.atMs <= earlier.atMs) return undefined;
  const total = ({ processes }: SandboxSample) =>
    [...processes.values()].reduce((seconds, { cpuSeconds }) => seconds + cpuSeconds, 0);
  return (Math.max(0, total(now) - total(earlier)) * 100_000) / (now.atMs - earlier.atMs);
}

/** Bytes that the pod's interfaces (not the loopback) received and sent, as the guest counts them. Pure. */
export function networkBytes(stats: StatsResponse | undefined): { received: number; sent: number } {
  const interfaces = stats?.containers[0]?.stats?.interfaces ?? [];
  const outside = interfaces.filter(({ name }) => name !== "lo");
  return {
    received: outside.reduce((total, { rxBytes }) => total + Number(rxBytes), 0),
    sent: outside.reduce((total, { txBytes }) => total + Number(txBytes), 0),
  };
}
