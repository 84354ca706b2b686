/** Limits, statistics and events of pods, and the size of their machines. */
import assert from "node:assert/strict";
import type { PodInit } from "../../harness/cri-pod.ts";
import { assertNothingLeftAtTheEnd, withCriHost } from "../../harness/cri-suite.ts";

const suite = withCriHost();
const { host, compareTest, ownTest, sharedPod } = suite;
const MIB = 1 << 20;

/** Reads a limit of the container's own cgroup, whichever version the kernel in question has. */
const limitScript = [
  "if [ -e /sys/fs/cgroup/memory.max ]; then cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max /sys/fs/cgroup/pids.max",
  "else cat /sys/fs/cgroup/memory/memory.limit_in_bytes; echo $(cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.cfs_period_us); cat /sys/fs/cgroup/pids/pids.max; fi",
].join("; ");

compareTest(
  "limits are the container's, and an in-place resize changes them while it runs",
  async (handler) => {
    const container = await (await sharedPod(handler)).run({
      resources: {
        cpuPeriod: 100_000n,
        cpuQuota: 50_000n,
        cpuShares: 512n,
        memoryLimitInBytes: BigInt(64 * MIB),
        unified: {},
      },
    });
    const read = async () => (await container.ok(limitScript)).split("\n").slice(0, 2);
    const before = await read();
    await host().cri.runtime.updateContainerResources({
      containerId: container.id,
      linux: { cpuPeriod: 100_000n, cpuQuota: 80_000n, memoryLimitInBytes: BigInt(96 * MIB) },
    });
    const after = await read();
    const alive = (await container.status()).state;
    await container.remove();
    return { before, after, alive };
  },
  (outcome) =>
    assert.deepEqual(outcome, {
      before: [String(64 * MIB), "50000 100000"],
      after: [String(96 * MIB), "80000 100000"],
      alive: 1,
    }),
);

compareTest(
  "a container over its memory limit is killed alone, and says so",
  async (handler) => {
    const pod = await sharedPod(handler);
    const other = await pod.run();
    const container = await pod.run({
      command: ["tool", "allocate", "200"],
      resources: { memoryLimitInBytes: BigInt(48 * MIB), memorySwapLimitInBytes: BigInt(48 * MIB) },
    });
    const { exitCode, reason } = await container.exited();
    const alive = await other.exec("true");
    await container.remove();
    await other.remove();
    return { exitCode, reason, alive: alive.exitCode };
  },
  (outcome) => assert.deepEqual(outcome, { exitCode: 137, reason: "OOMKilled", alive: 0 }),
);

compareTest(
  "container statistics: memory and cpu time agree with what the container sees itself",
  async (handler) => {
    const container = await (await sharedPod(handler)).run({ command: ["tool", "allocate", "40"] });
    await container.logged("ready");
    await container.exec("i=0; while [ $i -lt 20000 ]; do i=$((i + 1)); done");
    const { stats } = await host().cri.runtime.containerStats({ containerId: container.id });
    const usage = Number(stats?.memory?.usageBytes?.value ?? stats?.memory?.workingSetBytes?.value ?? 0n);
    const own = await container.ok(
      "cat /sys/fs/cgroup/memory.current 2>/dev/null || cat /sys/fs/cgroup/memory/memory.usage_in_bytes; awk '/^usage_usec/ { print $2 * 1000 }' /sys/fs/cgroup/cpu.stat 2>/dev/null || true; cat /sys/fs/cgroup/cpuacct/cpuacct.usage 2>/dev/null || true",
    );
    const [ownMemory = 0, ownCpu = 0] = own.trim().split("\n").map(Number);
    const cpu = Number(stats?.cpu?.usageCoreNanoSeconds?.value ?? 0n);
    const { stats: listed } = await host().cri.runtime.listContainerStats({ filter: { id: container.id } });
    await container.remove();
    return {
      memory: usage > 40 * MIB && Math.abs(usage - ownMemory) < 8 * MIB,
      cpu: cpu > 0 && cpu <= ownCpu && cpu > ownCpu / 4,
      named: stats?.attributes?.id === container.id,
      listed: listed.length,
      figures: handler === "runc" ? "" : `${usage} of ${ownMemory}, ${cpu} of ${ownCpu}`,
    };
  },
  {
    why: "the figures are those of two kernels",
    check(ours, control) {
      const expected = { memory: true, cpu: true, named: true, listed: 1 };
      assert.deepEqual({ ...control, figures: undefined }, { ...expected, figures: undefined });
      assert.deepEqual({ ...ours, figures: undefined }, { ...expected, figures: undefined }, ours.figures);
    },
  },
);

const machineOf = async (init: PodInit) => {
  const pod = await host().runPod("caisson", init);
  const container = await pod.run();
  const text = await container.ok(
    "awk '/MemTotal/ { print $2 }' /proc/meminfo; grep -c ^processor /proc/cpuinfo",
  );
  await host().release(pod);
  const [memoryKiB = 0, cpus = 0] = text.trim().split("\n").map(Number);
  return { memoryMiB: memoryKiB / 1024, cpus };
};

ownTest(
  "the machine is as large as the pod's limits and a base say",
  "a pod of runc has no machine",
  async () => {
    const [plain, limited] = await Promise.all([
      machineOf({}),
      machineOf({
        linux: {
          resources: {
            cpuPeriod: 100_000n,
            cpuQuota: 150_000n,
            memoryLimitInBytes: BigInt(300 * MIB),
          },
          overhead: { memoryLimitInBytes: BigInt(64 * MIB) },
        } as never,
      }),
    ]);
    assert.equal(plain.cpus, 1);
    assert.equal(limited.cpus, 2);
    const difference = limited.memoryMiB - plain.memoryMiB;
    // The kernel keeps some of what it is given for itself, page structures above all.
    assert.ok(difference > 280 && difference <= 300, `${limited.memoryMiB} and ${plain.memoryMiB} MiB`);
  },
);

ownTest(
  "the events of a pod's life reach containerd's clients",
  "the order is containerd's own",
  async () => {
    const { containerd, world } = host();
    const { spawn } = await import("node:child_process");
    const [file = "", ...args] = containerd.ctrCommand(["events"]);
    const events = spawn(file, args, { stdio: ["ignore", "pipe", "ignore"] });
    let text = "";
    events.stdout.on("data", (chunk: Buffer) => {
      text += chunk.toString();
    });
    await new Promise((resolve) => setTimeout(resolve, 300));
    const pod = await host().runPod("caisson");
    const container = await pod.run();
    await container.exec("true");
    const oom = await pod.run({
      command: ["tool", "allocate", "200"],
      resources: { memoryLimitInBytes: BigInt(48 * MIB) },
    });
    await oom.exited();
    await container.stop();
    await host().release(pod);
    for (const { pid, commandLine } of world.processes())
      if (commandLine.endsWith(" events")) process.kill(pid);
    const topics = (id: string) =>
      text
        .split("\n")
        .filter((line) => line.includes(id))
        .map((line) => line.match(/\/tasks\/[a-z-]+/)?.[0])
        .filter((topic) => topic !== undefined);
    assert.deepEqual(topics(pod.id), ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"], text);
    const exec = ["/tasks/exec-added", "/tasks/exec-started", "/tasks/exit"];
    assert.deepEqual(topics(container.id).slice(0, 5), ["/tasks/create", "/tasks/start", ...exec], text);
    assert.deepEqual(topics(oom.id).slice(0, 4), [
      "/tasks/create",
      "/tasks/start",
      "/tasks/oom",
      "/tasks/exit",
    ]);
  },
);

assertNothingLeftAtTheEnd(suite);
