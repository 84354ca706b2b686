import assert from "node:assert/strict";
import { statfsSync } from "node:fs";
import { test } from "node:test";
import { create, fromBinary } from "@bufbuild/protobuf";
import { ContainerStatsResponseSchema } from "../../../src/gen/caisson/agent/v1/agent_pb.ts";
import { MetricsSchema as MetricsV1Schema } from "../../../src/gen/io/containerd/cgroups/v1/metrics_pb.ts";
import { MetricsSchema as MetricsV2Schema } from "../../../src/gen/io/containerd/cgroups/v2/metrics_pb.ts";
import { hostMetricsVersion, packMetrics } from "../../../src/shim/metrics.ts";
import { metricsV1 } from "../../../src/shim/metrics-v1.ts";
import { metricsV2 } from "../../../src/shim/metrics-v2.ts";
import { podStats } from "../../../src/shim/pod-stats.ts";

const NO_LIMIT = 2n ** 64n - 1n;
const counters = { rxBytes: 1n, rxPackets: 2n, txBytes: 3n, txPackets: 4n };
const stats = create(ContainerStatsResponseSchema, {
  cpu: { usageUsec: 9n, userUsec: 5n, systemUsec: 4n, nrPeriods: 8n, nrThrottled: 2n, throttledUsec: 1n },
  memory: {
    usage: 100n,
    usageLimit: 200n,
    maxUsage: 150n,
    swapUsage: 11n,
    swapLimit: 50n,
    stat: { inactive_file: 40n, anon: 7n, file: 60n, anon_thp: 2n, kernel: 12n, sock: 3n, pgmajfault: 6n },
    events: { oom_kill: 1n, max: 13n },
  },
  pids: { current: 3n, limit: 10n },
  io: [{ major: 254, minor: 16, rbytes: 5n, wbytes: 6n, rios: 7n, wios: 8n }],
  hugetlb: [{ pageSize: "2MB", current: 4_194_304n, max: 8_388_608n }],
  interfaces: [
    { name: "lo", ...counters },
    { name: "eth0", ...counters, rxErrors: 5n, rxDropped: 6n, txErrors: 7n, txDropped: 8n },
  ],
});
const eth0 = { name: "eth0", ...counters, rxErrors: 5n, rxDropped: 6n, txErrors: 7n, txDropped: 8n };

/** Messages without their type names and without what is unset. */
const plain = (messages: readonly object[] = []) =>
  messages.map((message) =>
    Object.fromEntries(
      Object.entries(message).filter(([key, value]) => key !== "$typeName" && value !== 0n && value !== ""),
    ),
  );

test("version 2 has block io, huge pages, the network without loopback, and the working set's parts", () => {
  const { memory, pids, io, hugetlb, network } = create(MetricsV2Schema, metricsV2(stats));
  assert.deepEqual(
    [memory?.usage, memory?.usageLimit, memory?.maxUsage, memory?.inactiveFile, memory?.anon],
    [100n, 200n, 150n, 40n, 7n],
  );
  assert.deepEqual([pids?.current, pids?.limit], [3n, 10n]);
  assert.deepEqual(plain(io?.usage), [
    { major: 254n, minor: 16n, rbytes: 5n, wbytes: 6n, rios: 7n, wios: 8n },
  ]);
  assert.deepEqual(plain(hugetlb), [{ pagesize: "2MB", current: 4_194_304n, max: 8_388_608n }]);
  assert.deepEqual(plain(network), [eth0]);
});

test("version 1 has the same figures in its own fields and units", () => {
  const { memory, pids, cpu, blkio, hugetlb, network, memoryOomControl } = create(
    MetricsV1Schema,
    metricsV1(stats),
  );
  assert.deepEqual(plain([cpu?.usage ?? {}, cpu?.throttling ?? {}]), [
    { total: 9_000n, user: 5_000n, kernel: 4_000n, perCpu: [] },
    { periods: 8n, throttledPeriods: 2n, throttledTime: 1_000n },
  ]);
  assert.deepEqual(plain([memory?.usage ?? {}, memory?.swap ?? {}]), [
    { usage: 100n, limit: 200n, max: 150n, failcnt: 13n },
    { usage: 111n, limit: 250n },
  ]);
  assert.deepEqual([memory?.rss, memory?.cache, memory?.rssHuge, memory?.pgMajFault], [7n, 60n, 2n, 6n]);
  assert.deepEqual([memory?.totalRss, memory?.totalCache, memory?.totalInactiveFile], [7n, 60n, 40n]);
  assert.deepEqual([memory?.kernel?.usage, memory?.kernelTcp?.usage], [12n, 3n]);
  assert.deepEqual([memory?.hierarchicalMemoryLimit, memory?.hierarchicalSwapLimit], [200n, 250n]);
  assert.deepEqual([pids?.current, pids?.limit], [3n, 10n]);
  const device = { major: 254n, minor: 16n };
  assert.deepEqual(plain(blkio?.ioServiceBytesRecursive), [
    { ...device, op: "Read", value: 5n },
    { ...device, op: "Write", value: 6n },
    { ...device, op: "Total", value: 11n },
  ]);
  assert.deepEqual(plain(blkio?.ioServicedRecursive).at(-1), { ...device, op: "Total", value: 15n });
  assert.deepEqual(plain(hugetlb), [{ pagesize: "2MB", usage: 4_194_304n }]);
  assert.deepEqual(plain(network), [eth0]);
  assert.equal(memoryOomControl?.oomKill, 1n);
});

test("a client that works out the working set comes to the same from both", () => {
  const [v1, v2] = [create(MetricsV1Schema, metricsV1(stats)), create(MetricsV2Schema, metricsV2(stats))];
  const { usage, totalInactiveFile } = v1.memory ?? {};
  assert.equal((usage?.usage ?? 0n) - (totalInactiveFile ?? 0n), 60n);
  assert.equal((v2.memory?.usage ?? 0n) - (v2.memory?.inactiveFile ?? 0n), 60n);
});

test("no limit is written as each version writes it, for a container and for a pod of several", () => {
  const limits = { usageLimit: NO_LIMIT, swapLimit: NO_LIMIT };
  const one = create(ContainerStatsResponseSchema, { memory: limits, pids: { limit: NO_LIMIT } });
  for (const unlimited of [one, podStats([stats, stats])]) {
    const v1 = create(MetricsV1Schema, metricsV1(unlimited));
    const most = 2n ** 63n - 4096n;
    assert.deepEqual([v1.memory?.usage?.limit, v1.memory?.swap?.limit, v1.pids?.limit], [most, most, 0n]);
    const v2 = create(MetricsV2Schema, metricsV2(unlimited));
    assert.deepEqual([v2.memory?.usageLimit, v2.pids?.limit], [NO_LIMIT, NO_LIMIT]);
  }
});

test("nothing that a client follows without a look is absent, whatever the guest leaves out", () => {
  const { memory, cpu, pids } = create(MetricsV1Schema, metricsV1(create(ContainerStatsResponseSchema, {})));
  for (const part of [memory?.usage, memory?.swap, memory?.kernel, memory?.kernelTcp, cpu?.usage]) {
    assert.notEqual(part, undefined);
  }
  assert.ok(cpu?.throttling !== undefined && pids !== undefined);
});

test("the message is what the configuration says, else what the host has", async () => {
  const [v1, v2] = [await packMetrics(stats, "v1"), await packMetrics(stats, "v2")];
  assert.deepEqual(
    [v1.typeUrl, v2.typeUrl],
    ["io.containerd.cgroups.v1.Metrics", "io.containerd.cgroups.v2.Metrics"],
  );
  assert.equal(fromBinary(MetricsV1Schema, v1.value).memory?.usage?.usage, 100n);
  assert.equal(fromBinary(MetricsV2Schema, v2.value).memory?.usage, 100n);
  const hosts = await packMetrics(stats, "auto");
  assert.equal(hosts.typeUrl, hostMetricsVersion() === "v1" ? v1.typeUrl : v2.typeUrl);
});

test("a device that two containers of a pod have, or that a guest names twice, is one series", async () => {
  const twice = create(ContainerStatsResponseSchema, {
    io: [...stats.io, ...stats.io],
    hugetlb: [...stats.hugetlb, { pageSize: "2MB", current: 1n }],
  });
  for (const doubled of [podStats([stats, stats]), twice]) {
    const v1 = fromBinary(MetricsV1Schema, (await packMetrics(doubled, "v1")).value);
    const bytes = v1.blkio?.ioServiceBytesRecursive.map(({ op, value }) => [op, value]);
    const sums = { Read: 10n, Write: 12n, Total: 22n };
    assert.deepEqual(bytes, Object.entries(sums));
    const v2 = fromBinary(MetricsV2Schema, (await packMetrics(doubled, "v2")).value);
    const device = { major: 254n, minor: 16n };
    assert.deepEqual(plain(v2.io?.usage), [{ ...device, rbytes: 10n, wbytes: 12n, rios: 14n, wios: 16n }]);
  }
  const { hugetlb } = fromBinary(MetricsV2Schema, (await packMetrics(twice, "v2")).value);
  assert.deepEqual(plain(hugetlb), [{ pagesize: "2MB", current: 4_194_304n, max: 8_388_608n }]);
});

test("a host whose cgroup directory is no cgroup of version 2 has the metrics of version 1", () => {
  assert.notEqual(statfsSync("/proc").type, 0x63677270);
  assert.equal(hostMetricsVersion("/proc"), "v1");
});
