/**
 * A container's figures from the guest as the cgroup v1 metrics message. The guest has cgroup v2, so:
 *
 *   v1 field                         from v2
 *   hugetlb.usage                    hugetlb.*.current
 *   pids                             pids.current, pids.max
 *   cpu.usage, .throttling           cpu.stat, in nanoseconds
 *   memory.rss, .cache               anon, file of memory.stat
 *   memory.rss_huge, .mapped_file    anon_thp, file_mapped
 *   memory.total_*                   as without total_: the counts of v2 have those of the cgroups below in them
 *   memory.usage                     memory.current, .max, .peak, and max of memory.events as its failures
 *   memory.swap                      memory plus swap, as memsw of v1 is
 *   memory.kernel, .kernel_tcp       kernel, sock of memory.stat; v2 has no limits of their own
 *   memory_oom_control.oom_kill      oom_kill of memory.events
 *   blkio                            rbytes, wbytes, rios, wios of io.stat and their sums
 *
 * Without a counterpart, and unset: per_cpu, pg_pg_in and pg_pg_out, the failures and peaks of hugetlb, swap and
 * kernel memory, the times and queues of blkio, rdma, cgroup_stats.
 */
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { ContainerStatsResponse, IoStats } from "../gen/caisson/agent/v1/agent_pb.ts";
import type { MetricsSchema } from "../gen/io/containerd/cgroups/v1/metrics_pb.ts";
import { podInterfaces } from "./metrics-interfaces.ts";

type MetricsV1 = MessageInitShape<typeof MetricsSchema>;

/** What v1 shows for "no limit": LONG_MAX in whole pages (PAGE_COUNTER_MAX, include/linux/page_counter.h). */
const NO_LIMIT = 0x7fff_ffff_ffff_f000n;
/** What the guest sends for "max". */
const GUEST_NO_LIMIT = 2n ** 64n - 1n;

const limitOf = (value = 0n): bigint => (value > NO_LIMIT ? NO_LIMIT : value);
const nanoseconds = (microseconds = 0n): bigint => microseconds * 1000n;

/** Every part that clients follow without a look is there: usage, swap, kernel and kernel_tcp, throttling, pids. */
export function metricsV1(stats: ContainerStatsResponse): MetricsV1 {
  const { cpu, memory, pids } = stats;
  return {
    hugetlb: stats.hugetlb.map(({ pageSize, current }) => ({ pagesize: pageSize, usage: current })),
    // 0 is v1's "no limit".
    pids: { current: pids?.current ?? 0n, limit: pids?.limit === GUEST_NO_LIMIT ? 0n : (pids?.limit ?? 0n) },
    cpu: {
      usage: {
        total: nanoseconds(cpu?.usageUsec),
        user: nanoseconds(cpu?.userUsec),
        kernel: nanoseconds(cpu?.systemUsec),
      },
      throttling: {
        periods: cpu?.nrPeriods ?? 0n,
        throttledPeriods: cpu?.nrThrottled ?? 0n,
        throttledTime: nanoseconds(cpu?.throttledUsec),
      },
    },
    memory: memoryV1(memory),
    blkio: blkioV1(stats.io),
    network: podInterfaces(stats.interfaces),
    memoryOomControl: { oomKill: memory?.events.oom_kill ?? 0n },
  };
}

function memoryV1(memory: ContainerStatsResponse["memory"]): NonNullable<MetricsV1["memory"]> {
  const stat = (key: string) => memory?.stat[key] ?? 0n;
  const usage = memory?.usage ?? 0n;
  const limit = limitOf(memory?.usageLimit);
  const swapLimit = limitOf(limit + (memory?.swapLimit ?? 0n));
  return {
    cache: stat("file"),
    rss: stat("anon"),
    rssHuge: stat("anon_thp"),
    mappedFile: stat("file_mapped"),
    dirty: stat("file_dirty"),
    writeback: stat("file_writeback"),
    pgFault: stat("pgfault"),
    pgMajFault: stat("pgmajfault"),
    inactiveAnon: stat("inactive_anon"),
    activeAnon: stat("active_anon"),
    inactiveFile: stat("inactive_file"),
    activeFile: stat("active_file"),
    unevictable: stat("unevictable"),
    hierarchicalMemoryLimit: limit,
    hierarchicalSwapLimit: swapLimit,
    totalCache: stat("file"),
    totalRss: stat("anon"),
    totalRssHuge: stat("anon_thp"),
    totalMappedFile: stat("file_mapped"),
    totalDirty: stat("file_dirty"),
    totalWriteback: stat("file_writeback"),
    totalPgFault: stat("pgfault"),
    totalPgMajFault: stat("pgmajfault"),
    totalInactiveAnon: stat("inactive_anon"),
    totalActiveAnon: stat("active_anon"),
    totalInactiveFile: stat("inactive_file"),
    totalActiveFile: stat("active_file"),
    totalUnevictable: stat("unevictable"),
    usage: { usage, limit, max: memory?.maxUsage ?? 0n, failcnt: memory?.events.max ?? 0n },
    swap: { usage: usage + (memory?.swapUsage ?? 0n), limit: swapLimit },
    kernel: { usage: stat("kernel"), limit: NO_LIMIT },
    kernelTcp: { usage: stat("sock"), limit: NO_LIMIT },
  };
}

function blkioV1(devices: readonly IoStats[]): NonNullable<MetricsV1["blkio"]> {
  const entries = (read: (device: IoStats) => bigint, write: (device: IoStats) => bigint) =>
    devices.flatMap((device) => {
      const place = { major: BigInt(device.major), minor: BigInt(device.minor) };
      return [
        { ...place, op: "Read", value: read(device) },
        { ...place, op: "Write", value: write(device) },
        { ...place, op: "Total", value: read(device) + write(device) },
      ];
    });
  return {
    ioServiceBytesRecursive: entries(
      ({ rbytes }) => rbytes,
      ({ wbytes }) => wbytes,
    ),
    ioServicedRecursive: entries(
      ({ rios }) => rios,
      ({ wios }) => wios,
    ),
  };
}
