import assert from "node:assert/strict";
import { test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { ContainerStatsResponseSchema } from "../../../src/gen/caisson/agent/v1/agent_pb.ts";
import { MetricsSchema } from "../../../src/gen/io/containerd/cgroups/v2/metrics_pb.ts";
import { metricsFromStats } from "../../../src/shim/metrics.ts";

test("metricsFromStats() has block io, huge pages, the network without loopback, and the working set's parts", () => {
  const counters = { rxBytes: 1n, rxPackets: 2n, txBytes: 3n, txPackets: 4n };
  const stats = create(ContainerStatsResponseSchema, {
    memory: { usage: 100n, usageLimit: 200n, maxUsage: 150n, stat: { inactive_file: 40n, anon: 7n } },
    pids: { current: 3n, limit: 10n },
    io: [{ major: 254, minor: 16, rbytes: 5n, wbytes: 6n, rios: 7n, wios: 8n }],
    hugetlb: [{ pageSize: "2MB", current: 4_194_304n, max: 8_388_608n }],
    interfaces: [
      { name: "lo", ...counters },
      { name: "eth0", ...counters, rxErrors: 5n, rxDropped: 6n, txErrors: 7n, txDropped: 8n },
    ],
  });
  const { memory, pids, io, hugetlb, network } = create(MetricsSchema, metricsFromStats(stats));
  assert.deepEqual(
    [memory?.usage, memory?.usageLimit, memory?.maxUsage, memory?.inactiveFile, memory?.anon],
    [100n, 200n, 150n, 40n, 7n],
  );
  assert.deepEqual([pids?.current, pids?.limit], [3n, 10n]);
  const plain = (messages: readonly object[] = []) =>
    messages.map((message) =>
      Object.fromEntries(Object.entries(message).filter(([key]) => key !== "$typeName")),
    );
  assert.deepEqual(plain(io?.usage), [
    { major: 254n, minor: 16n, rbytes: 5n, wbytes: 6n, rios: 7n, wios: 8n },
  ]);
  assert.deepEqual(
    plain(hugetlb).map(({ pagesize, current, max }) => [pagesize, current, max]),
    [["2MB", 4_194_304n, 8_388_608n]],
  );
  assert.deepEqual(plain(network), [
    { name: "eth0", ...counters, rxErrors: 5n, rxDropped: 6n, txErrors: 7n, txDropped: 8n },
  ]);
});
