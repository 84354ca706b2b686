/** The Sandbox service called directly: every state of a sandbox, and its containers through the Task API beside it. */
import assert from "node:assert/strict";
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fromBinary } from "@bufbuild/protobuf";
import { type Any, timestampDate } from "@bufbuild/protobuf/wkt";
import { Status } from "../../../src/base/errors.ts";
import { MetricsSchema } from "../../../src/gen/io/containerd/cgroups/v1/metrics_pb.ts";
import { statusOf } from "../../../src/ttrpc/index.ts";
import { busyboxRootfs, busyboxSpec, DirectShim } from "../../harness/direct-shim.ts";
import { assertEven, takeSnapshot } from "../../harness/leak-ledger.ts";
import { runOk } from "../../harness/run.ts";
import { createWorld, type World } from "../../harness/world.ts";

let world: World;
before(async () => {
  world = await createWorld();
});
after(() => world[Symbol.asyncDispose]());

const metricsIn = (any: Any | undefined) => fromBinary(MetricsSchema, any?.value ?? new Uint8Array());

const rejectsWith = (promise: Promise<unknown>, status: number) =>
  assert.rejects(promise, (error: Error) => statusOf(error).code === status);

test("a sandbox is created, started, asked, stopped and shut down", async () => {
  const ledger = takeSnapshot(world);
  await using shim = await DirectShim.start({ world, id: "pod", config: { "runtime.stats_format": "v1" } });
  const [sandbox, task] = [await shim.sandbox(), await shim.task()];
  const sandboxId = "pod";
  await rejectsWith(sandbox.startSandbox({ sandboxId }), Status.NotFound);
  await rejectsWith(sandbox.sandboxStatus({ sandboxId }), Status.NotFound);
  await sandbox.createSandbox({ sandboxId, bundlePath: shim.bundle });
  await rejectsWith(sandbox.createSandbox({ sandboxId, bundlePath: shim.bundle }), Status.AlreadyExists);
  await rejectsWith(sandbox.pingSandbox({ sandboxId }), Status.FailedPrecondition);
  const waiting = sandbox.waitSandbox({ sandboxId });
  // When the test fails the connection is closed under it; the failure is to be seen.
  waiting.catch(() => undefined);
  const started = await sandbox.startSandbox({ sandboxId });
  assert.ok(started.pid > 0);
  assert.equal((await sandbox.startSandbox({ sandboxId })).pid, started.pid);
  assert.equal((await sandbox.platform({ sandboxId })).platform?.os, "linux");
  await sandbox.pingSandbox({ sandboxId });
  await rejectsWith(sandbox.pingSandbox({ sandboxId: "other" }), Status.NotFound);
  const ready = await sandbox.sandboxStatus({ sandboxId });
  assert.deepEqual([ready.state, ready.pid], ["SANDBOX_READY", started.pid]);

  const rootfs = [await busyboxRootfs(world)];
  const bundle = shim.addBundle("c1", busyboxSpec(world, "c1", ["sleep", "1000"]));
  await task.create({ id: "c1", bundle, rootfs });
  await task.start({ id: "c1" });
  // The program is still being read when Start is answered.
  const used = async () => metricsIn((await task.stats({ id: "c1" })).stats).memory?.usage?.usage;
  for (let before = await used(); ; ) {
    await sleep(200);
    const now = await used();
    if (now === before) break;
    before = now;
  }
  const { metrics } = await sandbox.sandboxMetrics({ sandboxId });
  // The figures of an idle container stand still, so those of the sandbox are the same.
  const { stats } = await task.stats({ id: "c1" });
  for (const any of [metrics?.data, stats]) {
    assert.equal(any?.typeUrl, "io.containerd.cgroups.v1.Metrics");
    const { memory, pids, cpu } = metricsIn(any);
    const usage = memory?.usage?.usage ?? 0n;
    const inactive = memory?.totalInactiveFile ?? 0n;
    assert.ok(usage > 0n && inactive < usage, `a working set: ${inactive} of ${usage} bytes are inactive`);
    assert.ok((cpu?.usage?.total ?? 0n) > 0n, "cpu time");
    assert.deepEqual([pids?.current, pids?.limit], [1n, 0n]);
    assert.equal(memory?.usage?.limit, 2n ** 63n - 4096n);
  }
  assert.equal((await sandbox.sandboxStatus({ sandboxId, verbose: true })).info.containers, "c1");
  // A container's end, and containerd's Shutdown after it, leave the sandbox alone.
  await task.kill({ id: "c1", signal: 9 });
  assert.equal((await task.wait({ id: "c1" })).exitStatus, 137);
  await task.delete({ id: "c1" });
  await task.shutdown({ id: "c1" });
  await sandbox.pingSandbox({ sandboxId });

  // The guest may know the names of the first one's files for a day; the second one's root is another.
  const [other, sleeps] = [join(world.dir, "other-root"), ["sh", "-c", "test -e /other && exec sleep 1000"]];
  await runOk(["cp", "-a", rootfs[0]?.source ?? "", other]);
  writeFileSync(join(other, "other"), "");
  writeFileSync(join(bundle, "config.json"), JSON.stringify(busyboxSpec(world, "c1", sleeps)));
  await task.create({
    id: "c1",
    bundle,
    rootfs: [{ type: "bind", source: other, options: ["rbind", "rw"] }],
  });
  await task.start({ id: "c1" });
  const running = task.wait({ id: "c1" });
  await sandbox.stopSandbox({ sandboxId });
  assert.equal((await running).exitStatus, 137);
  const exit = await waiting;
  assert.equal(exit.exitStatus, 0);
  const stopped = await sandbox.sandboxStatus({ sandboxId });
  assert.equal(stopped.state, "SANDBOX_NOTREADY");
  assert.deepEqual(
    stopped.exitedAt && timestampDate(stopped.exitedAt),
    exit.exitedAt && timestampDate(exit.exitedAt),
  );
  await sandbox.stopSandbox({ sandboxId });
  await rejectsWith(sandbox.pingSandbox({ sandboxId }), Status.FailedPrecondition);
  await rejectsWith(sandbox.startSandbox({ sandboxId }), Status.FailedPrecondition);
  await rejectsWith(
    task.create({ id: "late", bundle: shim.addBundle("late", busyboxSpec(world, "late", ["true"])), rootfs }),
    Status.NotFound,
  );
  await sandbox.shutdownSandbox({ sandboxId });
  await assertEven(world, ledger);
  assert.ok(!existsSync(world.outside(shim.socketPath)));
});
