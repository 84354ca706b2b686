/**
 * One entry for each device and size of huge pages. The containers of a pod have devices in common, and a guest may say
 * anything; but one series that comes twice is an error to containerd's exporter, and then nobody on the host has metrics.
 */
import type { ContainerStatsResponse, HugetlbStats, IoStats } from "../gen/caisson/agent/v1/agent_pb.ts";

/** Pure. The figures of entries for one device are added; of a size of huge pages the first entry counts. */
export function uniqueSeries(stats: ContainerStatsResponse): ContainerStatsResponse {
  const devices = new Map<string, IoStats>();
  for (const entry of stats.io) {
    const key = `${entry.major}:${entry.minor}`;
    devices.set(key, added(devices.get(key), entry));
  }
  const sizes = new Map<string, HugetlbStats>();
  for (const entry of stats.hugetlb) if (!sizes.has(entry.pageSize)) sizes.set(entry.pageSize, entry);
  return { ...stats, io: [...devices.values()], hugetlb: [...sizes.values()] };
}

function added(sum: IoStats | undefined, entry: IoStats): IoStats {
  if (sum === undefined) return entry;
  return {
    ...entry,
    rbytes: sum.rbytes + entry.rbytes,
    wbytes: sum.wbytes + entry.wbytes,
    rios: sum.rios + entry.rios,
    wios: sum.wios + entry.wios,
  };
}
