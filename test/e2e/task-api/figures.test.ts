/** What the Task API shows and changes of a running container: processes, figures, limits; checked inside the guest. */
import assert from "node:assert/strict";
import { constants, readFileSync } from "node:fs";
import { open } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fromBinary } from "@bufbuild/protobuf";
import { ProcessDetailsSchema } from "../../../src/gen/caisson/task/v1/process_details_pb.ts";
import { TaskExitSchema, TaskOOMSchema } from "../../../src/gen/containerd/events/task_pb.ts";
import { Status as TaskStatus } from "../../../src/gen/containerd/v1/types/task_pb.ts";
import { type Metrics, MetricsSchema } from "../../../src/gen/io/containerd/cgroups/v2/metrics_pb.ts";
import { runOk } from "../../harness/run.ts";
import { createWorld, type World } from "../../harness/world.ts";
import { MatrixPod, processSpec, resourcesOf } from "./call-matrix.ts";
import { execOutput } from "./exec-output.ts";

const MIB = 1 << 20;
let world: World;
let pod: MatrixPod;
before(async () => {
  world = await createWorld();
  pod = await MatrixPod.start(world, "pod", { config: { "runtime.stats_format": "v2" } });
});
after(async () => {
  await pod?.[Symbol.asyncDispose]();
  await world[Symbol.asyncDispose]();
});

async function running(args: readonly string[]): Promise<string> {
  const id = pod.newId();
  await pod.create(id, args);
  await pod.task.start({ id });
  return id;
}

async function remove(id: string): Promise<void> {
  await pod.task.kill({ id, signal: 9, all: true }).catch(() => undefined);
  await pod.task.wait({ id });
  await pod.task.delete({ id });
}

async function metricsOf(id: string): Promise<Metrics> {
  const { stats } = await pod.task.stats({ id });
  assert.equal(stats?.typeUrl, "io.containerd.cgroups.v2.Metrics");
  return fromBinary(MetricsSchema, stats?.value ?? new Uint8Array());
}

const exitOf = (bytes: Uint8Array) => fromBinary(TaskExitSchema, bytes);
const shell = (id: string, script: string) => execOutput(pod, id, ["sh", "-c", script]);

test("Pids lists the guest's processes with their commands, execs with their ids", async () => {
  const id = await running(["sh", "-c", "sleep 111 & sleep 222 & wait"]);
  await pod.task.exec({ id, execId: "probe", spec: processSpec(["sleep", "333"]) });
  await pod.task.start({ id, execId: "probe" });
  // The shell takes a moment to start its two.
  assert.equal(
    (await shell(id, "until [ $(ls -d /proc/[0-9]* | wc -l) -ge 5 ]; do sleep 0.05; done")).exitStatus,
    0,
  );
  const { processes } = await pod.task.pids({ id });
  const details = processes.map(({ pid, info }) => {
    assert.ok(pid > 1, "a pid of the guest, whose own init is 1");
    assert.equal(info?.typeUrl, "containerd.runc.v1.ProcessDetails");
    const { execId, command } = fromBinary(ProcessDetailsSchema, info?.value ?? new Uint8Array());
    return `${execId}|${command}`;
  });
  assert.deepEqual(
    details.sort(),
    ["probe|sleep 333", "|sh -c sleep 111 & sleep 222 & wait", "|sleep 111", "|sleep 222"].sort(),
  );
  await remove(id);
});

test("Stats has the figures of the guest's cgroup, what the working set is made of among them", async () => {
  const id = await running(["sleep", "1000"]);
  // 24 MiB of page cache that nobody uses, 8 MiB in use, and some work.
  await shell(
    id,
    `dd if=/dev/zero of=/tmp/f bs=1M count=24 2>/dev/null; i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done`,
  );
  const { pids, cpu, memory, memoryEvents, network, hugetlb, io } = await metricsOf(id);
  assert.equal(pids?.current, 1n);
  assert.ok((cpu?.usageUsec ?? 0n) > 1_000n && (cpu?.userUsec ?? 0n) > 0n);
  const cgroup = "/sys/fs/cgroup";
  assert.ok((memory?.usage ?? 0n) > 0n && (memory?.usageLimit ?? 0n) === 2n ** 64n - 1n);
  assert.ok(memory !== undefined && memory.inactiveFile + memory.activeFile <= memory.usage);
  assert.ok((memory?.anon ?? 0n) > 0n && (memory?.pgfault ?? 0n) > 0n);
  assert.equal(memoryEvents?.oomKill, 0n);
  // The guest has huge pages and no disk; test/unit/shim/metrics.test.ts has what a disk gives.
  assert.deepEqual(
    hugetlb.filter(({ pagesize }) => pagesize === "2MB").map(({ current }) => current),
    [0n],
  );
  assert.deepEqual(io?.usage ?? [], []);
  assert.ok(
    network.every(({ name }) => name !== "lo"),
    cgroup,
  );
  await remove(id);
});

test("Update changes the limits of a running container at once, in the guest's cgroup", async () => {
  const id = await running(["sleep", "1000"]);
  const resources = {
    memory: { limit: 48 * MIB, reservation: 16 * MIB },
    cpu: { quota: 30_000, period: 100_000, shares: 512 },
    pids: { limit: 17 },
  };
  await pod.task.update({ id, resources: resourcesOf(resources) });
  const { memory, pids } = await metricsOf(id);
  assert.equal(memory?.usageLimit, BigInt(48 * MIB));
  assert.equal(pids?.limit, 17n);
  // The limit on processes is felt at once: a shell that starts twenty of them is refused some.
  const forks = await shell(id, "i=0; while [ $i -lt 20 ]; do sleep 30 & i=$((i+1)); done; echo done");
  assert.match(forks.stderr, /can't fork/);
  // So is the quota: work at 30 % of a cpu is throttled.
  await shell(id, "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done");
  const after = await metricsOf(id);
  assert.ok((after.cpu?.nrPeriods ?? 0n) > 0n && (after.cpu?.nrThrottled ?? 0n) > 0n, "never throttled");
  await pod.task.update({ id, resources: resourcesOf({ memory: { limit: 64 * MIB } }) });
  assert.equal((await metricsOf(id)).memory?.usageLimit, BigInt(64 * MIB));
  assert.equal((await metricsOf(id)).pids?.limit, 17n, "what is not named stays");
  await remove(id);
});

test("Pause stops every process of a container and Resume lets them go on", async () => {
  const id = await running(["sh", "-c", "while :; do echo x >> /tmp/ticks; sleep 0.05; done"]);
  const other = await running(["sleep", "1000"]);
  await sleep(300);
  await pod.task.pause({ id });
  const used = async () => (await metricsOf(id)).cpu?.usageUsec;
  const before = await used();
  await sleep(400);
  assert.equal(await used(), before);
  // The rest of the pod goes on.
  assert.equal((await shell(other, "echo alive")).stdout, "alive\n");
  await pod.task.resume({ id });
  await sleep(300);
  assert.notEqual(await used(), before);
  // The pause container stands for the whole pod.
  const states = () =>
    Promise.all(["pod", id, other].map(async (one) => (await pod.task.state({ id: one })).status));
  await pod.task.pause({ id: "pod" });
  assert.deepEqual(await states(), [TaskStatus.PAUSED, TaskStatus.PAUSED, TaskStatus.PAUSED]);
  const frozen = await used();
  await sleep(400);
  assert.equal(await used(), frozen);
  await pod.task.resume({ id: "pod" });
  assert.deepEqual(await states(), [TaskStatus.RUNNING, TaskStatus.RUNNING, TaskStatus.RUNNING]);
  assert.equal((await shell(other, "echo alive")).stdout, "alive\n");
  await remove(id);
  await remove(other);
});

test("a container that eats more memory than it may is killed alone, with TaskOOM and 137", async () => {
  const neighbour = await running(["sleep", "1000"]);
  const id = await running(["sh", "-c", "sleep 0.3; x=12345678; while :; do x=$x$x; done"]);
  await pod.task.update({ id, resources: resourcesOf({ memory: { limit: 24 * MIB } }) });
  assert.equal((await pod.task.wait({ id })).exitStatus, 137);
  const oom = await pod.shim.untilEvent("/tasks/oom");
  assert.equal(fromBinary(TaskOOMSchema, oom).containerId, id);
  const exit = await pod.shim.untilEvent("/tasks/exit", (bytes) => exitOf(bytes).containerId === id);
  assert.equal(exitOf(exit).exitStatus, 137);
  assert.ok((await metricsOf(id)).memoryEvents?.oomKill, "the dead container's figures still show why");
  await pod.task.delete({ id });
  assert.equal((await shell(neighbour, "echo alive")).stdout, "alive\n");
  await remove(neighbour);
});

test("a guest out of memory loses a container and neither its agent nor the others", async () => {
  const neighbour = await running(["sleep", "1000"]);
  // Neither has a limit; together they want more than the guest has.
  const hog = ["dd", "if=/dev/zero", "of=/dev/null", "bs=150M"];
  const hogs = [await running(hog), await running(hog)];
  const first = await Promise.race(
    hogs.map(async (id) => ({ id, exitStatus: (await pod.task.wait({ id })).exitStatus })),
  );
  assert.equal(first.exitStatus, 137);
  await pod.shim.untilEvent(
    "/tasks/oom",
    (bytes) => fromBinary(TaskOOMSchema, bytes).containerId === first.id,
  );
  assert.equal((await shell(neighbour, "echo alive")).stdout, "alive\n");
  for (const id of [neighbour, ...hogs]) {
    await pod.task.kill({ id, signal: 9 }).catch(() => undefined);
    await pod.task.wait({ id });
    await pod.task.delete({ id });
  }
});

test("CloseIO ends the input of a process after all that was written before", async () => {
  const id = await running(["sleep", "1000"]);
  const [stdin, stdout] = [join(pod.shim.bundle, "in"), join(pod.shim.bundle, "count")];
  await runOk(["mkfifo", stdin]);
  const spec = processSpec(["sh", "-c", "sleep 0.5; wc -c"]);
  await pod.task.exec({ id, execId: "count", spec, stdin, stdout: `file://${stdout}` });
  await pod.task.start({ id, execId: "count" });
  // The call comes while most is still to be written.
  const writer = await open(stdin, constants.O_WRONLY);
  const bytes = Buffer.alloc(3 * MIB + 17, "x");
  const written = writer.writeFile(bytes);
  await pod.task.closeIO({ id, execId: "count", stdin: true });
  await written;
  await writer.close();
  assert.equal((await pod.task.wait({ id, execId: "count" })).exitStatus, 0);
  await pod.task.delete({ id, execId: "count" });
  assert.equal(readFileSync(stdout, "utf8").trim(), String(bytes.length));
  await remove(id);
});
