/** The verbs of the built shim as each generation of containerd calls them; no machine is started. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import {
  BootstrapParamsSchema,
  BootstrapResultSchema,
} from "../../../src/gen/containerd/runtime/bootstrap/v1/bootstrap_pb.ts";
import { DeleteResponseSchema, Task as TaskV2 } from "../../../src/gen/containerd/task/v2/task_pb.ts";
import { Task as TaskV3 } from "../../../src/gen/containerd/task/v3/task_pb.ts";
import { RuntimeInfoSchema } from "../../../src/gen/containerd/types/introspection_pb.ts";
import { busyboxSpec, DirectShim } from "../../harness/direct-shim.ts";
import { built } from "../../harness/paths.ts";
import { runOk } from "../../harness/run.ts";
import { createWorld, type World } from "../../harness/world.ts";

let world: World;
before(async () => {
  world = await createWorld();
});
after(() => world[Symbol.asyncDispose]());

async function assertServesAndEnds(shim: DirectShim): Promise<void> {
  for (const service of [TaskV2, TaskV3]) {
    const task = await shim.connect(service);
    await assert.rejects(task.state({ id: "nobody" }), /nobody not found|no sandbox/);
  }
  const task = await shim.task();
  await task.shutdown({ id: shim.id, now: true });
  const deadline = performance.now() + 5_000;
  while (existsSync(world.outside(shim.socketPath)) || world.processes().length > 0) {
    assert.ok(performance.now() < deadline, `left: ${JSON.stringify(world.processes())}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

test("start without parameters on stdin answers with the plain address", async () => {
  await using shim = await DirectShim.start({
    world,
    id: "plain",
    spec: busyboxSpec(world, "plain", ["true"]),
  });
  assert.match(shim.answer.toString(), /^unix:\/\/\/run\/containerd\/s\/caisson-[0-9a-f]{64}$/);
  await assertServesAndEnds(shim);
});

test("start with BootstrapParams answers with a BootstrapResult, its socket in the directory asked for", async () => {
  const socketDir = join(world.dir, "s");
  mkdirSync(socketDir);
  const params = create(BootstrapParamsSchema, {
    instanceId: "boot",
    namespace: world.name,
    containerdVersion: "2.3.0",
    containerdGrpcAddress: join(world.dir, "c.sock"),
    socketDir,
  });
  const stdin = toBinary(BootstrapParamsSchema, params);
  const spec = busyboxSpec(world, "boot", ["true"]);
  await using shim = await DirectShim.start({ world, id: "boot", spec, stdin });
  const result = fromBinary(BootstrapResultSchema, shim.answer);
  assert.deepEqual([result.version, result.protocol], [3, "ttrpc"]);
  assert.equal(result.address, `unix://${shim.socketPath}`);
  assert.ok(shim.socketPath.startsWith(`${socketDir}/`));
  await assertServesAndEnds(shim);
});

test("delete after a shim that was killed removes its socket, wherever it is", async () => {
  const socketDir = join(world.dir, "s2");
  mkdirSync(socketDir);
  const params = create(BootstrapParamsSchema, {
    instanceId: "dead",
    namespace: world.name,
    containerdVersion: "2.3.0",
    socketDir,
  });
  const stdin = toBinary(BootstrapParamsSchema, params);
  await using shim = await DirectShim.start({
    world,
    id: "dead",
    spec: busyboxSpec(world, "dead", ["true"]),
    stdin,
  });
  for (const { pid } of world.processes()) process.kill(pid, "SIGKILL");
  assert.ok(existsSync(shim.socketPath));
  assert.equal(fromBinary(DeleteResponseSchema, await shim.delete()).exitStatus, 137);
  assert.ok(!existsSync(shim.socketPath));
});

test("-info and -v answer without a container", async () => {
  const info = execFileSync(built.shim, ["-info"], { stdio: ["ignore", "pipe", "inherit"] });
  assert.equal(fromBinary(RuntimeInfoSchema, info).name, "io.containerd.caisson.v2");
  assert.match((await runOk([built.shim, "-v"])).stdout, /Version: +\d+\.\d+\.\d+/);
});
