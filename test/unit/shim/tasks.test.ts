import assert from "node:assert/strict";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { test } from "node:test";
import { SandboxError } from "../../../src/base/errors.ts";
import { silentLog } from "../../../src/base/log.ts";
import { UndoStack } from "../../../src/base/undo.ts";
import { Container } from "../../../src/runtime/container.ts";
import { ContainerProcess } from "../../../src/runtime/container-process.ts";
import { TaskEvents } from "../../../src/shim/task-events.ts";
import { type PreparedSandbox, Tasks } from "../../../src/shim/tasks.ts";

const stdio = { stdin: "", stdout: "", stderr: "", terminal: false };

/** Tasks with one container, which is its own sandbox and has exited; the guest removes it by `remove`. */
async function exitedTask(remove: () => Promise<void>) {
  const bundle = fs.mkdtempSync(path.join(os.tmpdir(), "caisson-tasks-"));
  fs.writeFileSync(path.join(bundle, "config.json"), '{"ociVersion":"1.0.2"}');
  const init = await ContainerProcess.open({
    containerId: "c",
    execId: "",
    stdio,
    namespace: "test",
    log: silentLog,
  });
  const none = async () => undefined;
  init.bind({
    remove,
    signal: none,
    resize: none,
    start: async () => ({ pid: 7 }),
    dial: () => Promise.reject(new Error("no streams")),
  });
  await init.start();
  init.settle({ status: 3, exitedAt: new Date(0) });
  const container = new Container({ id: "c", bundle, init, undo: new UndoStack(), inGuest: true });
  const seen = { stops: 0, events: [] as string[] };
  const sandbox = {
    vmPid: 42,
    containers: [container],
    container: () => container,
    start: none,
    createContainer: none,
    deleteProcess: () => init.delete(),
    stop: async () => void seen.stops++,
  };
  const tasks = new Tasks({
    log: silentLog,
    events: new TaskEvents({ publish: (topic) => void seen.events.push(topic) }),
    openSandbox: async () => ({ sandbox, plan: () => ({}) }) as unknown as PreparedSandbox,
  });
  const task = { id: "c", bundle, rootfs: [], stdio, configPath: "" };
  await tasks.create(task, new AbortController().signal);
  fs.rmSync(bundle, { recursive: true });
  return { tasks, seen };
}

test("a second Delete of a sandbox's container is refused while the first one drains its output", async () => {
  let removed: () => void = () => undefined;
  const { tasks, seen } = await exitedTask(
    () =>
      new Promise((resolve) => {
        removed = resolve;
      }),
  );
  const first = tasks.delete("c", "");
  await new Promise(setImmediate);
  await assert.rejects(tasks.delete("c", ""), (error: SandboxError) => error.code === "ERR_STATE");
  assert.equal(seen.stops, 0);
  removed();
  assert.equal((await first).status, 3);
  assert.equal(seen.stops, 1);
  assert.deepEqual(seen.events, ["/tasks/create", "/tasks/delete"]);
});

test("a sandbox's container is deleted with its machine when the guest cannot remove it", async () => {
  const { tasks, seen } = await exitedTask(async () => {
    throw new SandboxError("ERR_DEADLINE", "no answer");
  });
  assert.equal((await tasks.delete("c", "")).status, 3);
  assert.equal(seen.stops, 1);
  assert.deepEqual(seen.events, ["/tasks/create", "/tasks/delete"]);
});
