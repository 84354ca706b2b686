import assert from "node:assert/strict";
import { test } from "node:test";
import { growthLimits, machineSize, sizeFor } from "../../../src/runtime/sizing.ts";

const limits = { baseCpus: 1, baseMemoryMiB: 256, maxCpus: 4, maxMemoryMiB: 4096 };

test("machineSize() is the base when nothing is limited", () => {
  assert.deepEqual(machineSize({}, limits), { cpus: 1, memoryMiB: 256 });
  assert.deepEqual(
    machineSize({ linux: { resources: { cpu: { quota: -1 }, memory: { limit: 2 ** 63 } } } }, limits),
    { cpus: 1, memoryMiB: 256 },
  );
});

test("machineSize() adds a single container's limits", () => {
  const spec = {
    linux: { resources: { cpu: { quota: 150_000, period: 100_000 }, memory: { limit: 100 << 20 } } },
  };
  assert.deepEqual(machineSize(spec, limits), { cpus: 2, memoryMiB: 356 });
});

test("machineSize() takes containerd's pod annotations over the pause container's own limits", () => {
  const spec = {
    annotations: {
      "io.kubernetes.cri.sandbox-memory": String(512 << 20),
      "io.kubernetes.cri.sandbox-cpu-quota": "50000",
      "io.kubernetes.cri.sandbox-cpu-period": "100000",
    },
    linux: { resources: { memory: { limit: 1 << 20 } } },
  };
  assert.deepEqual(machineSize(spec, limits), { cpus: 1, memoryMiB: 768 });
});

test("machineSize() takes CRI-O's pod annotation and ignores one that is not JSON", () => {
  const key = "pod-linux-resources.crio.io";
  assert.deepEqual(
    machineSize(
      {
        annotations: { [key]: '{"cpu_quota":300000,"cpu_period":100000,"memory_limit_in_bytes":104857600}' },
      },
      limits,
    ),
    { cpus: 3, memoryMiB: 356 },
  );
  assert.deepEqual(machineSize({ annotations: { [key]: "{" } }, limits), { cpus: 1, memoryMiB: 256 });
});

test("machineSize() stays within the configured limits", () => {
  const spec = { linux: { resources: { cpu: { quota: 9_900_000 }, memory: { limit: 1e12 } } } };
  assert.deepEqual(machineSize(spec, limits), { cpus: 4, memoryMiB: 4096 });
});

test("machineSize() raises the base to the overhead that CRI-O tells", () => {
  const annotations = {
    "io.kubernetes.cri-o.PodLinuxResources": '{"memory_limit_in_bytes":104857600}',
    "io.kubernetes.cri-o.PodLinuxOverhead": '{"memory_limit_in_bytes":367001600}',
  };
  assert.deepEqual(machineSize({ annotations }, limits), { cpus: 1, memoryMiB: 450 });
});

test("sizeFor() adds what the containers may use to the base, and does not stop at the limits", () => {
  const containers = [
    { cpus: 1.5, memoryBytes: 100 << 20 },
    { cpus: undefined, memoryBytes: undefined },
    { cpus: 3.2, memoryBytes: 2 ** 33 },
  ];
  assert.deepEqual(sizeFor(containers, limits), { cpus: 5, memoryMiB: 256 + 100 + 8192 });
  assert.deepEqual(sizeFor([], limits), { cpus: 1, memoryMiB: 256 });
});

test("growthLimits() leaves room for whole memory blocks", () => {
  const most = (memoryMiB: number, maxMemoryMiB: number) =>
    growthLimits({ cpus: 1, memoryMiB }, { ...limits, maxMemoryMiB }).maxMemoryMiB;
  assert.equal(most(256, 1000), 256 + 5 * 128);
  assert.equal(most(256, 383), 256);
});
