/**
 * The answer of Stats: the metrics message of cgroup v1 or v2. The request does not say which one its caller takes, but
 * containerd's own exporter takes one alone, that of its host's cgroups; older CRI-O takes v1 alone. So the host decides,
 * as with runc's shim and Kata's, unless the configuration does (runtime.stats_format).
 */
import { statfsSync } from "node:fs";
import type { Any } from "@bufbuild/protobuf/wkt";
import type { Config } from "../config/index.ts";
import type { ContainerStatsResponse } from "../gen/caisson/agent/v1/agent_pb.ts";
import { packAny } from "./pack-any.ts";
import { uniqueSeries } from "./unique-series.ts";

export type MetricsVersion = "v1" | "v2";
export type StatsFormat = Config["runtime"]["statsFormat"];

/** linux/magic.h */
const CGROUP2_SUPER_MAGIC = 0x63677270;

/** v2 where version 2 alone is mounted at `root`; version 1 and both together (hybrid) count as v1, as containerd has it. */
export function hostMetricsVersion(root = "/sys/fs/cgroup"): MetricsVersion {
  return statfsSync(root).type === CGROUP2_SUPER_MAGIC ? "v2" : "v1";
}

export async function packMetrics(stats: ContainerStatsResponse, format: StatsFormat): Promise<Any> {
  const version = format === "auto" ? hostMetricsVersion() : format;
  const unique = uniqueSeries(stats);
  if (version === "v2") {
    const [{ metricsV2 }, { MetricsSchema }] = await Promise.all([
      import("./metrics-v2.ts"),
      import("../gen/io/containerd/cgroups/v2/metrics_pb.ts"),
    ]);
    return packAny(MetricsSchema, metricsV2(unique));
  }
  const [{ metricsV1 }, { MetricsSchema }] = await Promise.all([
    import("./metrics-v1.ts"),
    import("../gen/io/containerd/cgroups/v1/metrics_pb.ts"),
  ]);
  return packAny(MetricsSchema, metricsV1(unique));
}
