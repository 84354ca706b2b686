import assert from "node:assert/strict";
import { test } from "node:test";
import { decodeResources } from "../../../guest-agent/src/container/oci-spec.ts";
import {
  blockWeightToIoWeight,
  planResources,
  SETUP_MEMORY_FLOOR,
  splitForSetup,
} from "../../../guest-agent/src/container/resource-plan.ts";
import { sharesToWeight } from "../../../src/base/cpu-weight.ts";

const plan = (resources: object, cpuMax?: string) =>
  Object.fromEntries(
    planResources(decodeResources(JSON.stringify(resources)), cpuMax).map(({ file, value }) => [file, value]),
  );

test("cpu shares become weights along the documented curve", () => {
  const points: readonly (readonly [bigint, number])[] = [
    [0n, 1],
    [2n, 1],
    [102n, 17],
    [512n, 59],
    [1024n, 100],
    [2048n, 174],
    [262_144n, 10_000],
    [1_000_000n, 10_000],
  ];
  for (const [shares, weight] of points) assert.equal(sharesToWeight(shares), weight, `${shares}`);
});

test("cpu weights never fall when shares rise", () => {
  let last = 0;
  for (let shares = 2n; shares <= 262_144n; shares += 37n) {
    const weight = sharesToWeight(shares);
    assert.ok(weight >= last && weight >= 1 && weight <= 10_000, `${shares}`);
    last = weight;
  }
});

test("block weights map their range onto io.weight's", () => {
  assert.deepEqual([10, 500, 1000].map(blockWeightToIoWeight), [1, 4950, 10_000]);
});

test("memory: swap is what the spec's sum leaves, minus one is no limit", () => {
  assert.deepEqual(plan({ memory: { limit: 100, swap: 150, reservation: 50 } }), {
    "memory.swap.max": "50",
    "memory.max": "100",
    "memory.low": "50",
  });
  assert.deepEqual(plan({ memory: { limit: -1 } }), { "memory.swap.max": "max", "memory.max": "max" });
  assert.deepEqual(plan({ memory: { limit: 100, swap: -1 } }), {
    "memory.swap.max": "max",
    "memory.max": "100",
  });
  assert.deepEqual(plan({ memory: { limit: 0, swap: 0 } }), {});
  assert.throws(() => plan({ memory: { swap: 100 } }), /a swap limit needs a memory limit/);
  assert.throws(() => plan({ memory: { limit: 100, swap: 50 } }), /cannot be below limit/);
});

test("memory: the largest 64-bit limits stay exact", () => {
  assert.deepEqual(plan({}), {});
  assert.equal(
    planResources(decodeResources('{"memory":{"limit":9223372036854771712}}'))[0]?.value,
    "9223372036854771712",
  );
});

test("cpu: quota and period", () => {
  assert.deepEqual(plan({ cpu: { quota: 50_000, period: 100_000 } }), { "cpu.max": "50000 100000" });
  assert.deepEqual(plan({ cpu: { quota: 50_000 } }), { "cpu.max": "50000 100000" });
  assert.deepEqual(plan({ cpu: { quota: -1 } }), { "cpu.max": "max 100000" });
  assert.deepEqual(plan({ cpu: { quota: 70_000 } }, "50000 20000\n"), { "cpu.max": "70000 20000" });
  assert.deepEqual(plan({ cpu: { period: 30_000 } }, "50000 20000\n"), { "cpu.max": "50000 30000" });
  assert.deepEqual(plan({ cpu: { quota: 0, period: 0, shares: 0 } }), {});
});

test("cpu: shares, burst, idle and sets", () => {
  assert.deepEqual(plan({ cpu: { shares: 1024, burst: 10, cpus: "0-1", mems: "0" } }), {
    "cpu.weight": "100",
    "cpu.max.burst": "10",
    "cpuset.cpus": "0-1",
    "cpuset.mems": "0",
  });
  // The kernel refuses a weight for an idle cgroup.
  assert.deepEqual(plan({ cpu: { shares: 1024, idle: 1 } }), { "cpu.idle": "1" });
});

test("pids, hugepages, io and unified", () => {
  assert.deepEqual(plan({ pids: { limit: 7 } }), { "pids.max": "7" });
  assert.deepEqual(plan({ pids: { limit: -1 } }), { "pids.max": "max" });
  assert.deepEqual(plan({ hugepageLimits: [{ pageSize: "2MB", limit: 4096 }] }), {
    "hugetlb.2MB.max": "4096",
    "hugetlb.2MB.rsvd.max": "4096",
  });
  assert.throws(() => plan({ hugepageLimits: [{ pageSize: "../x", limit: 1 }] }), /is not a page size/);
  assert.deepEqual(
    plan({ blockIO: { weight: 500, throttleReadBpsDevice: [{ major: 8, minor: 0, rate: 9 }] } }),
    {
      "io.weight": "default 4950",
      "io.max": "8:0 rbps=9",
    },
  );
  assert.deepEqual(plan({ unified: { "memory.oom.group": "1" } }), { "memory.oom.group": "1" });
  for (const file of ["../x.y", "cgroup.procs", "a/b.c", "x"]) {
    assert.throws(() => plan({ unified: { [file]: "1" } }), /is not a file of a resource controller/, file);
  }
});

test("a limit that the set-up itself would exceed waits until the program runs", () => {
  const writes = planResources(
    decodeResources('{"memory":{"limit":6291456,"reservation":1048576},"pids":{"limit":5}}'),
  );
  const { before, after } = splitForSetup(writes);
  assert.deepEqual(
    before.map(({ file, value }) => [file, value]),
    [
      ["memory.max", String(SETUP_MEMORY_FLOOR)],
      ["memory.low", "1048576"],
      ["pids.max", "5"],
    ],
  );
  assert.deepEqual(
    after.map(({ file, value }) => [file, value]),
    [["memory.max", "6291456"]],
  );
  assert.deepEqual(
    splitForSetup(planResources(decodeResources('{"memory":{"limit":1073741824}}'))).after,
    [],
  );
});

test("weights are hints, limits are not", () => {
  const writes = planResources(
    decodeResources('{"cpu":{"shares":10,"quota":1000},"memory":{"limit":1,"swap":2},"pids":{"limit":1}}'),
  );
  assert.deepEqual(Object.fromEntries(writes.map(({ file, required }) => [file, required])), {
    "memory.swap.max": false,
    "memory.max": true,
    "cpu.weight": false,
    "cpu.max": true,
    "pids.max": true,
  });
});
