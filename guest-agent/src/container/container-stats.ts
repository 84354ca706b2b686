/** What a container uses, from the files of its cgroup and the guest's interfaces, as the protocol carries it. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import type { ContainerStatsResponseSchema } from "../../../src/gen/caisson/agent/v1/agent_pb.ts";

export type ContainerStats = MessageInitShape<typeof ContainerStatsResponseSchema>;

/** The content of a cgroup file, undefined where the kernel has none. */
export type ReadFile = (file: string) => string | undefined;

/** "max" in a limit file; what cgroup v1 showed for "no limit" is larger than any memory, so is this. */
const UNLIMITED = 2n ** 64n - 1n;

/**
 * @param read reads a file of the container's cgroup.
 * @param netDev /proc/net/dev of the pod.
 * @param hugePageSizes sizes that the kernel knows ("2MB").
 */
export function collectStats(
  read: ReadFile,
  netDev: string,
  hugePageSizes: readonly string[],
): ContainerStats {
  const cpu = flatKeyed(read("cpu.stat"));
  const of = (file: string) => singleValue(read(file));
  return {
    cpu: {
      usageUsec: cpu.usage_usec ?? 0n,
      userUsec: cpu.user_usec ?? 0n,
      systemUsec: cpu.system_usec ?? 0n,
      nrPeriods: cpu.nr_periods ?? 0n,
      nrThrottled: cpu.nr_throttled ?? 0n,
      throttledUsec: cpu.throttled_usec ?? 0n,
    },
    memory: {
      usage: of("memory.current") ?? 0n,
      usageLimit: of("memory.max") ?? UNLIMITED,
      swapUsage: of("memory.swap.current") ?? 0n,
      swapLimit: of("memory.swap.max") ?? UNLIMITED,
      // memory.peak exists from Linux 5.19 on.
      maxUsage: of("memory.peak") ?? 0n,
      stat: flatKeyed(read("memory.stat")),
      events: flatKeyed(read("memory.events")),
    },
    pids: { current: of("pids.current") ?? 0n, limit: of("pids.max") ?? UNLIMITED },
    io: parseIoStat(read("io.stat") ?? ""),
    hugetlb: hugePageSizes.map((pageSize) => ({
      pageSize,
      current: of(`hugetlb.${pageSize}.current`) ?? 0n,
      max: of(`hugetlb.${pageSize}.max`) ?? UNLIMITED,
    })),
    interfaces: parseNetDev(netDev),
  };
}

/** "key value" lines. */
export function flatKeyed(content: string | undefined): Record<string, bigint> {
  const values: Record<string, bigint> = {};
  for (const line of (content ?? "").split("\n")) {
    const [key, value] = line.split(" ");
    if (key !== undefined && value !== undefined && /^\d+$/.test(value)) values[key] = BigInt(value);
  }
  return values;
}

/** A file of one number or "max"; undefined when absent. */
function singleValue(content: string | undefined): bigint | undefined {
  const text = content?.trim();
  if (text === undefined || text === "") return undefined;
  return /^\d+$/.test(text) ? BigInt(text) : UNLIMITED;
}

/** Lines "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6". */
export function parseIoStat(content: string): NonNullable<ContainerStats["io"]> {
  return content.split("\n").flatMap((line) => {
    const [device, ...pairs] = line.trim().split(" ");
    const match = /^(\d+):(\d+)$/.exec(device ?? "");
    if (match === null || pairs.length === 0) return [];
    const values = new Map(pairs.map((pair) => [pair.split("=")[0], pair.split("=")[1]]));
    const of = (key: string) => BigInt(values.get(key) ?? "0");
    return [
      {
        major: Number(match[1]),
        minor: Number(match[2]),
        rbytes: of("rbytes"),
        wbytes: of("wbytes"),
        rios: of("rios"),
        wios: of("wios"),
      },
    ];
  });
}

/** Two lines of headings, then "name: 8 receive fields, 8 transmit fields" (net/core/net-procfs.c). */
export function parseNetDev(content: string): NonNullable<ContainerStats["interfaces"]> {
  return content
    .split("\n")
    .slice(2)
    .flatMap((line) => {
      const colon = line.lastIndexOf(":");
      if (colon < 0) return [];
      const fields = line
        .slice(colon + 1)
        .trim()
        .split(/\s+/);
      if (fields.length < 16) return [];
      const at = (index: number) => BigInt(fields[index] ?? "0");
      return [
        {
          name: line.slice(0, colon).trim(),
          rxBytes: at(0),
          rxPackets: at(1),
          rxErrors: at(2),
          rxDropped: at(3),
          txBytes: at(8),
          txPackets: at(9),
          txErrors: at(10),
          txDropped: at(11),
        },
      ];
    });
}

/** The page sizes of hugetlb files in a cgroup: "hugetlb.2MB.max" gives "2MB". */
export function hugePageSizes(names: readonly string[]): readonly string[] {
  return names.flatMap((name) => /^hugetlb\.(\d+[KMG]B)\.max$/.exec(name)?.[1] ?? []);
}
