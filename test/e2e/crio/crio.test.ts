/** CRI-O's contract for `runtime_type = "vm"`, played by a double of its client. */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fromBinary } from "@bufbuild/protobuf";
import { Status } from "../../../src/gen/containerd/v1/types/task_pb.ts";
import { MetricsSchema as MetricsV1Schema } from "../../../src/gen/io/containerd/cgroups/v1/metrics_pb.ts";
import { MetricsSchema as MetricsV2Schema } from "../../../src/gen/io/containerd/cgroups/v2/metrics_pb.ts";
import { CrioNode, CrioPod } from "../../harness/crio.ts";
import type { CrioContainer } from "../../harness/crio-container.ts";
import { busyboxRootfs } from "../../harness/direct-shim.ts";
import { assertEven, type LedgerSnapshot, takeSnapshot } from "../../harness/leak-ledger.ts";
import { assertSetUp, built } from "../../harness/paths.ts";
import { runOk } from "../../harness/run.ts";
import { createWorld, type World } from "../../harness/world.ts";

const MIB = 1 << 20;
let world: World;
let node: CrioNode;
/** For tests that leave their pod as it was. */
let shared: CrioPod;
let untouched: LedgerSnapshot;

before(async () => {
  assertSetUp();
  world = await createWorld();
  node = new CrioNode(world, { "hypervisor.qemu.default_memory": 192 });
  await busyboxRootfs(world);
  untouched = takeSnapshot(world);
  shared = await node.runPod();
});
after(async () => {
  node.close();
  await world[Symbol.asyncDispose]();
});

/** A test after which nothing is left, though nobody ever calls the shim's `delete` verb. */
function ledgered(name: string, body: () => Promise<void>): void {
  void test(name, async () => {
    const snapshot = takeSnapshot(world);
    await body();
    await assertEven(world, snapshot);
  });
}

/** A test that leaves the shared pod as it was; that nothing is left of it is the last test. */
function inSharedPod(name: string, body: () => Promise<void>): void {
  void test(name, body);
}

/** Stops and removes a container of a pod that goes on. */
async function discard(...containers: CrioContainer[]): Promise<void> {
  for (const container of containers) {
    await container.stop(0);
    await container.remove();
  }
}

async function until(what: string, condition: () => boolean): Promise<void> {
  const deadline = performance.now() + 15_000;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error(`waited 15 s for ${what}`);
    await sleep(20);
  }
}

const sh = (script: string) => ["sh", "-c", script];
const memoryTotalMiB = async (container: CrioContainer) =>
  Number((await container.exec(sh("awk '/MemTotal/ { print $2 }' /proc/meminfo"))).stdout) / 1024;

ledgered("a pod lives from the first start to the last Shutdown", async () => {
  const pod = await node.runPod();
  const [infra] = pod.containers;
  assert.ok(infra !== undefined);
  const first = await pod.run({ args: sh("echo out; echo err >&2; hostname; exec sleep 1000") });
  const second = await pod.run();
  await until("the container's output", () => first.stdout.includes("crio-pod") && first.stderr !== "");
  assert.deepEqual([first.stdout, first.stderr], ["out\ncrio-pod\n", "err\n"]);
  const bootIds = await Promise.all(
    [first, second].map(async (one) => (await one.exec(["cat", "/proc/sys/kernel/random/boot_id"])).stdout),
  );
  assert.equal(bootIds[0], bootIds[1]);
  assert.notEqual(bootIds[0], readFileSync("/proc/sys/kernel/random/boot_id", "utf8"));
  for (const container of pod.containers) {
    // What a restarted CRI-O looks for.
    assert.match(readFileSync(join(container.bundle, "address"), "utf8"), /^unix:\/\/\/[\w/.-]+$/);
  }
  assert.match(infra.shimLog, /"the guest is ready"/);
  assert.deepEqual(await Promise.all([infra.isAlive(), first.isAlive()]), [true, true]);
  const list = await runOk(world.enter([join(built.bin, "shim"), "list", "--json"]));
  const listed = (JSON.parse(list.stdout) as { id: string; pod: unknown }[]).find(({ id }) => id === pod.id);
  assert.deepEqual(listed?.pod, { name: "web-0", namespace: "shop", uid: "0b5c" });
  await first.stop(1);
  assert.equal(await first.exited, 137);
  await first.remove();
  assert.equal((await second.exec(["echo", "alive"])).stdout, "alive\n");
  await second.stop(0);
  assert.equal(await second.exited, 137);
  assert.equal(await second.isAlive(), false);
  await pod.remove();
});

ledgered("the file that runtime_config_path names is the configuration, and a bad one is told", async () => {
  const pod = await node.runPod();
  const container = await pod.run();
  const memory = await memoryTotalMiB(container);
  // The kernel keeps some of what it is given for itself.
  assert.ok(memory > 130 && memory <= 192, `${memory} MiB`);
  await pod.remove();
  const good = readFileSync(node.configPath, "utf8");
  writeFileSync(node.configPath, "[hypervisor.qemu]\nno_such_key = 1\n");
  await assert.rejects(node.runPod(), /from-crio\.toml.*no_such_key/s);
  writeFileSync(node.configPath, good);
});

inSharedPod(
  "exec: streams, input, a terminal, exit codes, a time limit, a missing program, many at once",
  async () => {
    const pod = shared;
    const container = await pod.run();
    const result = await container.exec(sh("echo out; echo err >&2; exit 7"));
    assert.deepEqual(result, { stdout: "out\n", stderr: "err\n", exitCode: 7 });
    const counted = await container.exec(["wc", "-c"], { input: "12345\n" });
    assert.deepEqual(counted, { stdout: "6\n", stderr: "", exitCode: 0 });
    const terminal = { width: 91, height: 31 };
    const script = "tty; until stty size | grep -q '31 91'; do :; done; read line; echo got $line; exit 4";
    const typed = await container.exec(sh(script), { terminal, input: "typed\n" });
    assert.equal(typed.exitCode, 4);
    assert.match(typed.stdout, /\/dev\/pts\/\d+\r\n/);
    assert.match(typed.stdout, /got typed\r\n$/);
    assert.deepEqual(await container.exec(["sleep", "100"], { timeoutSeconds: 1 }), {
      stdout: "",
      stderr: "command timed out",
      exitCode: -1,
    });
    await assert.rejects(
      container.exec(["/no/such/program"]),
      /\/no\/such\/program.*no such file or directory/,
    );
    const all = await Promise.all(
      Array.from({ length: 10 }, (_, i) => container.exec(sh(`echo ${i}; exit ${i}`))),
    );
    assert.deepEqual(
      all.map(({ stdout, exitCode }) => [stdout, exitCode]),
      all.map((_, i) => [`${i}\n`, i]),
    );
    await discard(container);
  },
);

ledgered(
  "CRI-O is restarted: containers, waits, output and exec go on, and what ended meanwhile is told",
  async () => {
    node.debug = true;
    const pod = await node.runPod();
    node.debug = false;
    const container = await pod.run({
      args: sh("echo before; until test -e /go; do sleep 0.05; done; echo after; exit 6"),
    });
    await until("the first line", () => container.stdout === "before\n");
    const brief = await pod.run({ args: sh("until test -e /go; do sleep 0.05; done; exit 5") });
    assert.equal((await brief.exec(["touch", "/go"])).exitCode, 0);
    for (const one of pod.containers) await one.restart();
    assert.equal(await brief.exited, 5);
    const state = await container.task.state({ id: container.id });
    assert.equal(state.bundle, container.bundle);
    assert.equal((await container.exec(["touch", "/go"])).exitCode, 0);
    assert.equal(await container.exited, 6);
    await until("the last line", () => container.stdout === "after\n");
    const ended = await container.task.state({ id: container.id });
    assert.deepEqual([ended.status, ended.exitStatus], [3, 6]);
    assert.equal(container.oomKilled, false);
    const late = await pod.run({ args: ["echo", "late"] });
    assert.equal(await late.exited, 0);
    await pod.remove();
  },
);

ledgered(
  "a container over its memory limit leaves the file oom in its bundle before its end is told",
  async () => {
    const pod = await node.runPod();
    const container = await pod.run({
      args: sh("head -c 200000000 /dev/zero | tail > /dev/null; sleep 1; exit 1"),
      resources: { memory: { limit: 40 * MIB, swap: 40 * MIB } },
    });
    const other = await pod.run({ args: sh("exit 1") });
    await Promise.all([container.exited, other.exited]);
    assert.deepEqual([container.oomKilled, other.oomKilled], [true, false]);
    await pod.remove();
  },
);

/** What CRI-O takes from either message; of v1 it follows all these parts without a look (internal/oci/runtime_vm.go). */
async function figuresOf(container: CrioContainer) {
  const { stats } = await container.task.stats({ id: container.id });
  const bytes = stats?.value ?? new Uint8Array();
  if (stats?.typeUrl === "io.containerd.cgroups.v2.Metrics") {
    const { memory, cpu, pids } = fromBinary(MetricsV2Schema, bytes);
    return { usage: memory?.usage, limit: memory?.usageLimit, cpu: cpu?.usageUsec, pids: pids?.current };
  }
  assert.equal(stats?.typeUrl, "io.containerd.cgroups.v1.Metrics");
  const { memory, cpu, pids } = fromBinary(MetricsV1Schema, bytes);
  for (const part of [memory?.swap, memory?.kernel, memory?.kernelTcp, cpu?.throttling]) assert.ok(part);
  const { usage, limit } = memory?.usage ?? {};
  return { usage, limit, cpu: cpu?.usage?.total, pids: pids?.current };
}

inSharedPod(
  "statistics are of a type that CRI-O knows; resources are updated; pause stops and resume goes on",
  async () => {
    const pod = shared;
    const container = await pod.run({ args: sh("while :; do echo x >> /ticks; sleep 0.1; done") });
    const { usage = 0n, cpu = 0n, pids = 0n } = await figuresOf(container);
    assert.ok(usage > 0n && cpu > 0n && pids >= 1n);
    const resources = { memory: { limit: 50 * MIB }, cpu: { quota: 40_000, period: 100_000 } };
    await container.update(resources);
    assert.equal((await figuresOf(container)).limit, BigInt(50 * MIB));
    await container.task.pause({ id: container.id });
    assert.equal((await container.updateStatus()).status, Status.PAUSED);
    await container.task.resume({ id: container.id });
    assert.equal((await container.updateStatus()).status, Status.RUNNING);
    assert.equal((await container.exec(["test", "-s", "/ticks"])).exitCode, 0);
    // CRI-O resumes what it is to stop.
    await container.task.pause({ id: container.id });
    await container.updateStatus();
    await discard(container);
  },
);

ledgered("the machine's size comes from CRI-O's annotations, of either generation", async () => {
  const resources = { cpu_period: 100_000, cpu_quota: 200_000, memory_limit_in_bytes: 256 * MIB };
  const pods = await Promise.all([
    node.runPod({
      "io.kubernetes.cri-o.PodLinuxResources": JSON.stringify(resources),
      "io.kubernetes.cri-o.PodLinuxOverhead": JSON.stringify({ memory_limit_in_bytes: 64 * MIB }),
    }),
    node.runPod({
      "pod-linux-resources.crio.io": JSON.stringify({ memory_limit_in_bytes: 100 * MIB }),
      "pod-linux-overhead.crio.io": JSON.stringify({ memory_limit_in_bytes: 320 * MIB }),
    }),
  ]);
  const seen = await Promise.all(
    pods.map(async (pod) => {
      const container = await pod.run();
      const cpus = Number((await container.exec(sh("grep -c ^processor /proc/cpuinfo"))).stdout);
      return { cpus, memory: await memoryTotalMiB(container) };
    }),
  );
  const [first, second] = seen;
  assert.ok(first !== undefined && second !== undefined);
  assert.deepEqual([first.cpus, second.cpus], [2, 1]);
  // 192 + 256 and, because the overhead is more than the base, 320 + 100.
  assert.ok(first.memory > 370 && first.memory <= 448, `${first.memory} MiB`);
  assert.ok(second.memory > 345 && second.memory <= 420, `${second.memory} MiB`);
  await Promise.all(pods.map((pod) => pod.remove()));
});

inSharedPod("a container that is refused does not disturb the pod", async () => {
  const pod = shared;
  const container = await pod.run();
  const mounts = [{ destination: "/x", type: "bind", source: "/no/such/dir", options: ["rbind"] }];
  await assert.rejects(pod.create({ mounts }), /the source \/no\/such\/dir does not exist/);
  assert.equal((await container.exec(["echo", "alive"])).stdout, "alive\n");
  const dir = join(world.dir, "volume");
  mkdirSync(dir, { recursive: true });
  writeFileSync(join(dir, "file"), "shared\n");
  const good = await pod.run({
    args: ["cat", "/x/file"],
    mounts: [{ destination: "/x", type: "bind", source: dir, options: ["rbind", "ro", "rprivate"] }],
  });
  assert.equal(await good.exited, 0);
  await until("the output", () => good.stdout === "shared\n");
  await discard(container, good);
});

ledgered("hostNetwork is refused and leaves nothing", async () => {
  const pod = new CrioPod(node, "hostnet".padEnd(64, "0"), "");
  await assert.rejects(pod.start({}), /run the pod without hostNetwork/);
});

ledgered("a pod whose machine dies is told as killed, and its removal cleans up", async () => {
  const pod = await node.runPod();
  const container = await pod.run();
  const ofPod = new RegExp(`qemu-system.*${pod.id}`);
  const machine = world.processes().find((p) => ofPod.test(p.commandLine));
  assert.ok(machine !== undefined);
  process.kill(machine.pid, "SIGKILL");
  assert.equal(await container.exited, 137);
  await pod.remove();
  assert.equal(existsSync(join(world.outside("/run/caisson"), pod.id)), false);
});

void test("the shared pod leaves nothing", async () => {
  await shared.remove();
  await assertEven(world, untouched);
});
