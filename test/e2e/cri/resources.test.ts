/** Limits, statistics and events of pods, and the size of their machines. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { cpus } from "node:os";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { sharesToWeight } from "../../../src/base/cpu-weight.ts";
import type { Handler } from "../../harness/cri-host.ts";
import type { ContainerInit, Pod, PodContainer, PodInit } from "../../harness/cri-pod.ts";
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

ownTest(
  "cpu shares, set at the start and changed by an update, are the weight of the container's cgroup in the guest",
  "runc before 1.3 has a weight of another formula, or none",
  async () => {
    const container = await (await sharedPod("caisson")).run({ resources: { cpuShares: 2048n } });
    const weight = async () => Number(await container.ok("cat /sys/fs/cgroup/cpu.weight"));
    assert.equal(await weight(), sharesToWeight(2048n));
    await host().cri.runtime.updateContainerResources({
      containerId: container.id,
      linux: { cpuShares: 512n },
    });
    assert.equal(await weight(), sharesToWeight(512n));
    await container.remove();
  },
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

ownTest(
  "a container's cpus, set at its start and changed later, are where its machine runs on the node",
  "runc's container is its processes",
  async () => {
    const pod = await host().runPod("caisson");
    const { commandLine: _, pid } =
      host()
        .world.processes()
        .find(({ commandLine }) => commandLine.includes(`caisson-${pod.id}`)) ?? assert.fail("no QEMU");
    const threads = () =>
      readdirSync(`/proc/${pid}/task`).map((task) => {
        const status = readFileSync(`/proc/${pid}/task/${task}/status`, "utf8");
        return /^Cpus_allowed_list:\t(.*)$/m.exec(status)?.[1];
      });
    const before = new Set(threads());
    const container = await pod.run({ resources: { cpusetCpus: "1" } });
    assert.deepEqual(new Set(threads()), new Set(["1"]));
    const second = await pod.run({ resources: { cpusetCpus: "0" } });
    assert.deepEqual(new Set(threads()), new Set(["0-1"]));
    await second.remove();
    await host().cri.runtime.updateContainerResources({
      containerId: container.id,
      linux: { cpusetCpus: "0" },
    });
    assert.deepEqual(new Set(threads()), new Set(["0"]));
    await container.remove();
    assert.deepEqual(new Set(threads()), before);
    await host().release(pod);
  },
  2,
);

/** The working set of an idle container by the metrics message that containerd got: usage less the idle page cache. */
async function workingSetOf(id: string): Promise<{ version: "v1" | "v2"; bytes: number }> {
  const { stdout } = await host().containerd.ctrOk(["task", "metrics", "--format", "json", id]);
  const { memory } = JSON.parse(stdout) as {
    memory: { usage: number | { usage: number }; total_inactive_file?: number; inactive_file?: number };
  };
  const { usage } = memory;
  return typeof usage === "number"
    ? { version: "v2", bytes: usage - (memory.inactive_file ?? 0) }
    : { version: "v1", bytes: usage.usage - (memory.total_inactive_file ?? 0) };
}

ownTest(
  "statistics come with either version of the metrics message, the host's without being asked",
  "runc's shim has those of the host alone",
  async () => {
    const idle = { command: ["sleep", "1000"] };
    const shared = await (await sharedPod("caisson")).run(idle);
    const hosts = (await workingSetOf(shared.id)).version;
    const other = hosts === "v1" ? "v2" : "v1";
    host().configure({ "runtime.stats_format": other });
    const pod = await host().runPod("caisson");
    host().configure();
    const container = await pod.run(idle);
    for (const [{ id }, version] of [
      [shared, hosts],
      [container, other],
    ] as const) {
      const { stats } = await host().cri.runtime.containerStats({ containerId: id });
      const told = Number(stats?.memory?.workingSetBytes?.value ?? 0n);
      assert.ok(told > 0 && Number(stats?.cpu?.usageCoreNanoSeconds?.value ?? 0n) > 0, version);
      const own = await workingSetOf(id);
      // The kernel charges in batches and gives back a little later.
      const near = Math.abs(own.bytes - told) < MIB;
      assert.deepEqual([own.version, near], [version, true], `${told} of ${own.bytes}`);
    }
    await shared.remove();
    await host().release(pod);
  },
);

/** What the pod's statistics say, and what the container sees of the same. */
async function readPodStats(pod: Pod, container: PodContainer) {
  const { stats } = await host().cri.runtime.podSandboxStats({ podSandboxId: pod.id });
  const own = await container.ok(
    "cat /sys/class/net/eth0/statistics/rx_bytes /sys/class/net/eth0/statistics/tx_bytes",
  );
  const network = stats?.linux?.network?.defaultInterface;
  const told = [network?.rxBytes?.value, network?.txBytes?.value].map((bytes = 0n) => Number(bytes));
  return { stats, interface: network?.name, told, own: own.trim().split("\n").map(Number) };
}

compareTest(
  "pod statistics: its cgroup on the node, its containers' figures, and a network that moves what the interface says",
  async (handler) => {
    const pod = await sharedPod(handler);
    const [first, second] = await Promise.all([pod.run({ command: ["tool", "allocate", "30"] }), pod.run()]);
    await first.logged("ready");
    const before = await readPodStats(pod, first);
    await first.exec("ping -c 3 -s 1000 10.88.0.1");
    const after = await readPodStats(pod, first);
    const memory = [first, second].map(({ id }) => {
      const found = after.stats?.linux?.containers.find((one) => one.attributes?.id === id);
      return Number(found?.memory?.workingSetBytes?.value ?? 0n);
    });
    const whole = after.stats?.linux;
    const podCpu = Number(whole?.cpu?.usageCoreNanoSeconds?.value ?? 0n);
    const podMemory = Number(whole?.memory?.usageBytes?.value ?? 0n);
    await first.remove();
    await second.remove();
    const grown = (which: "told" | "own") => after[which].map((bytes, i) => bytes - (before[which][i] ?? 0));
    const [told, own] = [grown("told"), grown("own")];
    const isNear = (bytes: number, i: number) => bytes > 3_000 && Math.abs(bytes - (own[i] ?? 0)) < 700;
    return {
      named: after.stats?.attributes?.id === pod.id,
      interface: after.interface,
      network: told.every(isNear),
      memory: (memory[0] ?? 0) > 30 * MIB && (memory[1] ?? 0) > 0,
      // The pod's are those of its cgroup on the node: the containers', and with us the machine around them.
      pod: podCpu > 0 && podMemory >= (memory[0] ?? 0) + (memory[1] ?? 0),
      figures: JSON.stringify({ told, own, memory, podCpu, podMemory }),
    };
  },
  {
    why: "the figures are those of two kernels",
    check(ours, control) {
      const expected = { named: true, interface: "eth0", network: true, memory: true, pod: true };
      for (const { figures, ...outcome } of [control, ours]) {
        assert.deepEqual(outcome, expected, figures);
      }
    },
  },
);

const machineOf = async (
  handler: Handler,
  init: PodInit,
  resources: NonNullable<ContainerInit["resources"]>,
) => {
  const pod = await host().runPod(handler, init);
  const container = await pod.run({ resources });
  const text = await container.ok(
    "awk '/MemTotal/ { print $2 }' /proc/meminfo; grep -c ^processor /proc/cpuinfo",
  );
  await host().release(pod);
  const [memoryKiB = 0, cpus = 0] = text.trim().split("\n").map(Number);
  return { memoryMiB: memoryKiB / 1024, cpus };
};

compareTest(
  "the machine is as large as the pod's limits and a base say",
  async (handler) => {
    const resources = {
      cpuPeriod: 100_000n,
      cpuQuota: 150_000n,
      memoryLimitInBytes: BigInt(300 * MIB),
    };
    const overhead = { memoryLimitInBytes: BigInt(64 * MIB) };
    const [plain, limited] = await Promise.all([
      machineOf(handler, {}, {}),
      // The kubelet's figure for a pod is the sum over its containers.
      machineOf(handler, { linux: { resources, overhead } as never }, resources),
    ]);
    return { plain, limited };
  },
  {
    why: "a pod of runc has no machine and sees the node's",
    check(ours, control) {
      assert.deepEqual(control.plain, control.limited);
      assert.deepEqual([ours.plain.cpus, ours.limited.cpus], [1, Math.min(2, cpus().length)]);
      const difference = ours.limited.memoryMiB - ours.plain.memoryMiB;
      // Started with it, of which the kernel keeps some for itself, or added to a template's machine, in blocks of 128 MiB.
      const within = (least: number, most: number) => difference > least && difference <= most;
      assert.ok(within(280, 300) || within(364, 384), JSON.stringify(ours));
    },
  },
);

/** `ctr events` until the test ends it. */
class EventLog {
  readonly #child: ChildProcess;
  #text = "";

  private constructor(child: ChildProcess) {
    this.#child = child;
    child.stdout?.on("data", (chunk: Buffer) => {
      this.#text += chunk.toString();
    });
  }

  /** Subscribed when it resolves: an event of our own has come through. */
  static async start(): Promise<EventLog> {
    const { containerd } = host();
    const [file = "", ...args] = containerd.ctrCommand(["events"]);
    const log = new EventLog(spawn(file, args, { stdio: ["ignore", "pipe", "ignore"] }));
    for (let i = 0; !log.#text.includes("/namespaces/"); i++) {
      assert.ok(i < 100, "ctr events shows nothing");
      await containerd.ctrOk(["namespaces", "label", containerd.namespace, `probe=${i}`]);
    }
    return log;
  }

  /** Topics of the events that name `id`, once the last of them is there. @throws after 15 s. */
  async topics(id: string, last: string): Promise<string[]> {
    const deadline = performance.now() + 15_000;
    for (;;) {
      const lines = this.#text.split("\n").filter((line) => line.includes(id));
      const topics = lines
        .map((line) => line.match(/\/tasks\/([a-z-]+)/)?.[1])
        .filter((topic) => topic !== undefined);
      if (topics.includes(last)) return topics;
      if (performance.now() > deadline) throw new Error(`no ${last} of ${id} in\n${lines.join("\n")}`);
      await sleep(20);
    }
  }

  stop(): void {
    // nsenter stands between it and us.
    for (const { pid, commandLine } of host().world.processes()) {
      if (commandLine.endsWith(" events")) process.kill(pid);
    }
    this.#child.kill();
  }
}

let eventLog: Promise<EventLog> | undefined;
compareTest(
  "the events of a pod's life reach containerd's clients, in their order",
  async (handler) => {
    eventLog ??= EventLog.start();
    const events = await eventLog;
    const pod = await host().runPod(handler);
    const container = await pod.run();
    await container.exec("true");
    const oom = await pod.run({
      command: ["tool", "allocate", "200"],
      resources: { memoryLimitInBytes: BigInt(48 * MIB), memorySwapLimitInBytes: BigInt(48 * MIB) },
    });
    await oom.exited();
    await container.stop();
    await host().release(pod);
    return {
      pod: await events.topics(pod.id, "delete"),
      container: await events.topics(container.id, "delete"),
      oom: await events.topics(oom.id, "delete"),
    };
  },
  {
    why: "runc tells an out-of-memory kill when its cgroup's watcher wakes, which may be after the exit; ours tells it first",
    check(ours, control) {
      const life = ["create", "start", "exit", "delete"];
      assert.deepEqual(ours.pod, life);
      assert.deepEqual(ours.container, [
        "create",
        "start",
        "exec-added",
        "exec-started",
        "exit",
        "exit",
        "delete",
      ]);
      assert.deepEqual(ours.oom, ["create", "start", "oom", "exit", "delete"]);
      assert.deepEqual(control.pod, ours.pod);
      assert.deepEqual(control.container, ours.container);
      assert.deepEqual([...new Set(control.oom)].sort(), [...ours.oom].sort());
    },
  },
);
void test("the watcher of events ends", async () => (await eventLog)?.stop());

assertNothingLeftAtTheEnd(suite);
