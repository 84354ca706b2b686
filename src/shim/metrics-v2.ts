/** A container's figures from the guest as the cgroup v2 metrics message. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { ContainerStatsResponse } from "../gen/caisson/agent/v1/agent_pb.ts";
import type { MetricsSchema } from "../gen/io/containerd/cgroups/v2/metrics_pb.ts";
import { podInterfaces } from "./metrics-interfaces.ts";

/** memory.stat keys that the message has a field for: field name by cgroup key. */
const memoryStatFields = {
  anon: "anon",
  file: "file",
  kernel_stack: "kernelStack",
  slab: "slab",
  sock: "sock",
  shmem: "shmem",
  file_mapped: "fileMapped",
  file_dirty: "fileDirty",
  file_writeback: "fileWriteback",
  anon_thp: "anonThp",
  inactive_anon: "inactiveAnon",
  active_anon: "activeAnon",
  inactive_file: "inactiveFile",
  active_file: "activeFile",
  unevictable: "unevictable",
  slab_reclaimable: "slabReclaimable",
  slab_unreclaimable: "slabUnreclaimable",
  pgfault: "pgfault",
  pgmajfault: "pgmajfault",
  workingset_refault: "workingsetRefault",
  workingset_activate: "workingsetActivate",
  workingset_refault_anon: "workingsetRefaultAnon",
  workingset_refault_file: "workingsetRefaultFile",
  workingset_activate_anon: "workingsetActivateAnon",
  workingset_activate_file: "workingsetActivateFile",
  workingset_nodereclaim: "workingsetNodereclaim",
  pgrefill: "pgrefill",
  pgscan: "pgscan",
  pgsteal: "pgsteal",
  pgactivate: "pgactivate",
  pgdeactivate: "pgdeactivate",
  pglazyfree: "pglazyfree",
  pglazyfreed: "pglazyfreed",
  thp_fault_alloc: "thpFaultAlloc",
  thp_collapse_alloc: "thpCollapseAlloc",
} as const;

export function metricsV2(stats: ContainerStatsResponse): MessageInitShape<typeof MetricsSchema> {
  const { cpu, memory, pids } = stats;
  const memoryStat: Record<string, bigint> = {};
  for (const [key, field] of Object.entries(memoryStatFields)) memoryStat[field] = memory?.stat[key] ?? 0n;
  const events = memory?.events ?? {};
  return {
    pids: { current: pids?.current ?? 0n, limit: pids?.limit ?? 0n },
    cpu: {
      usageUsec: cpu?.usageUsec ?? 0n,
      userUsec: cpu?.userUsec ?? 0n,
      systemUsec: cpu?.systemUsec ?? 0n,
      nrPeriods: cpu?.nrPeriods ?? 0n,
      nrThrottled: cpu?.nrThrottled ?? 0n,
      throttledUsec: cpu?.throttledUsec ?? 0n,
    },
    memory: {
      ...memoryStat,
      usage: memory?.usage ?? 0n,
      usageLimit: memory?.usageLimit ?? 0n,
      swapUsage: memory?.swapUsage ?? 0n,
      swapLimit: memory?.swapLimit ?? 0n,
      maxUsage: memory?.maxUsage ?? 0n,
    },
    memoryEvents: {
      low: events.low ?? 0n,
      high: events.high ?? 0n,
      max: events.max ?? 0n,
      oom: events.oom ?? 0n,
      oomKill: events.oom_kill ?? 0n,
      oomGroupKill: events.oom_group_kill ?? 0n,
    },
    io: {
      usage: stats.io.map((entry) => ({
        major: BigInt(entry.major),
        minor: BigInt(entry.minor),
        rbytes: entry.rbytes,
        wbytes: entry.wbytes,
        rios: entry.rios,
        wios: entry.wios,
      })),
    },
    hugetlb: stats.hugetlb.map((entry) => ({
      pagesize: entry.pageSize,
      current: entry.current,
      max: entry.max,
    })),
    network: podInterfaces(stats.interfaces),
  };
}
