/** All nine events of a task, as containerd hands them to its clients. */
import assert from "node:assert/strict";
import net from "node:net";
import { join } from "node:path";
import { busyboxRootfs, busyboxSpec, DirectShim } from "../../harness/direct-shim.ts";
import { describeResult } from "../../harness/run.ts";
import { withTestHost } from "../../harness/test-host.ts";
import { processSpec } from "./call-matrix.ts";
import { topicsOf } from "./core-suite.ts";

const { ledgeredTest } = withTestHost();

ledgeredTest(
  "a life with an exec, a pause and an out-of-memory kill gives its nine kinds of event in order",
  async (host) => {
    const { containerd } = host;
    const id = "all-nine";
    const { topics, text } = await topicsOf(host, 13, async () => {
      const flags = ["--memory-limit", String(32 << 20)];
      await host.runDetached(["sleep", "1000"], { id, flags });
      assert.equal((await host.exec(id, ["true"])).code, 0);
      await containerd.ctrOk(["task", "pause", id]);
      await containerd.ctrOk(["task", "resume", id]);
      const eater = await host.exec(id, ["sh", "-c", "x=12345678; while :; do x=$x$x; done"]);
      assert.equal(eater.code, 137, describeResult(eater));
      await host.remove(id);
    });
    const exec = ["/tasks/exec-added", "/tasks/exec-started"];
    assert.deepEqual(
      topics,
      [
        ...["/tasks/create", "/tasks/start"],
        ...[...exec, "/tasks/exit"],
        ...["/tasks/paused", "/tasks/resumed"],
        ...[...exec, "/tasks/oom", "/tasks/exit"],
        ...["/tasks/exit", "/tasks/delete"],
      ],
      text,
    );
  },
);

ledgeredTest("an exit never comes before its start, however short the process", async (host) => {
  const id = await host.runDetached(["sleep", "1000"]);
  const runs = 10;
  const { topics, text } = await topicsOf(host, 3 * runs, async () => {
    for (let i = 0; i < runs; i++) await host.exec(id, ["true"]);
  });
  const expected = Array.from({ length: runs }, () => [
    "/tasks/exec-added",
    "/tasks/exec-started",
    "/tasks/exit",
  ]);
  assert.deepEqual(topics, expected.flat(), text);
  await host.remove(id);
});

ledgeredTest("a containerd that takes no event holds up no call", async ({ world }) => {
  let asked = 0;
  const sink = net.createServer((socket) =>
    socket.on("data", (bytes) => {
      asked += bytes.length;
    }),
  );
  const address = join(world.dir, "silent");
  await new Promise<void>((resolve) => sink.listen(address, resolve));
  const id = "unheard";
  const spec = busyboxSpec(world, id, ["sleep", "1000"]);
  const shim = await DirectShim.start({ world, id, spec, env: { TTRPC_ADDRESS: address } });
  try {
    const task = await shim.task();
    await task.create({ id, bundle: shim.bundle, rootfs: [await busyboxRootfs(world)] });
    await task.start({ id });
    await task.exec({ id, execId: "e", spec: processSpec(["false"]) });
    await task.start({ id, execId: "e" });
    assert.equal((await task.wait({ id, execId: "e" })).exitStatus, 1);
    await task.delete({ id, execId: "e" });
    await task.pause({ id });
    await task.resume({ id });
    await task.kill({ id, signal: 9 });
    assert.equal((await task.wait({ id })).exitStatus, 137);
    await task.delete({ id });
    await task.shutdown({ id });
    assert.ok(asked > 0, "the sink was asked");
  } finally {
    await shim[Symbol.asyncDispose]();
    sink.close();
  }
});
