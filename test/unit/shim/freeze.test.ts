import assert from "node:assert/strict";
import { test } from "node:test";
import { SandboxError } from "../../../src/base/errors.ts";
import { silentLog } from "../../../src/base/log.ts";
import { UndoStack } from "../../../src/base/undo.ts";
import { Container } from "../../../src/runtime/container.ts";
import { ContainerProcess } from "../../../src/runtime/container-process.ts";
import { setPaused } from "../../../src/shim/freeze.ts";

const none = async () => undefined;

/** A running container, as far as its state goes. */
async function running(id: string): Promise<Container> {
  const stdio = { stdin: "", stdout: "", stderr: "", terminal: false };
  const init = await ContainerProcess.open({
    containerId: id,
    execId: "",
    stdio,
    namespace: "test",
    log: silentLog,
  });
  const dial = () => Promise.reject(new Error("no streams"));
  init.bind({ start: async () => ({ pid: 7 }), signal: none, resize: none, remove: none, dial });
  await init.start();
  return new Container({ id, bundle: "", init, undo: new UndoStack(), inGuest: true });
}

/** A guest that keeps what it is told, and fails at the calls named ("pause b"). */
function guest(failing: Readonly<Record<string, SandboxError>>) {
  const frozen = new Set<string>();
  const call = (verb: string, act: (id: string) => void) => async (request: { containerId: string }) => {
    const error = failing[`${verb} ${request.containerId}`];
    if (error !== undefined) throw error;
    act(request.containerId);
  };
  const calls = {
    pauseContainer: call("pause", (id) => void frozen.add(id)),
    resumeContainer: call("resume", (id) => void frozen.delete(id)),
  };
  return { calls, frozen };
}

const refused = new SandboxError("ERR_STATE", "refused");
const states = (all: readonly Container[]) => all.map(({ paused }) => paused);
const pod = () => Promise.all(["a", "b", "c"].map(running));

test("a pod is paused and resumed with each of its containers", async () => {
  const all = await pod();
  const { calls, frozen } = guest({});
  await setPaused(all, true, calls);
  assert.deepEqual(
    [[...frozen], states(all)],
    [
      ["a", "b", "c"],
      [true, true, true],
    ],
  );
  await setPaused(all, false, calls);
  assert.deepEqual([[...frozen], states(all)], [[], [false, false, false]]);
});

test("a pause that fails half-way leaves everything running, and says which container failed and why", async () => {
  const all = await pod();
  const { calls, frozen } = guest({ "pause b": refused });
  await assert.rejects(setPaused(all, true, calls), (error: SandboxError) => {
    assert.deepEqual([error.code, error.message], ["ERR_STATE", "cannot pause container b"]);
    return error.cause === refused;
  });
  assert.deepEqual([[...frozen], states(all)], [[], [false, false, false]]);
});

test("a resume that fails half-way leaves everything paused", async () => {
  const all = await pod();
  const { calls, frozen } = guest({ "resume c": refused });
  await setPaused(all, true, calls);
  await assert.rejects(setPaused(all, false, calls), /cannot resume container c/);
  assert.deepEqual([frozen.size, states(all)], [3, [true, true, true]]);
});

test("what cannot be put back is named, and shown as it is", async () => {
  const all = await pod();
  const { calls, frozen } = guest({ "pause c": refused, "resume a": refused });
  await assert.rejects(setPaused(all, true, calls), /cannot pause container c; a could not be resumed again/);
  assert.deepEqual([[...frozen], states(all)], [["a"], [true, false, false]]);
});

test("a container that did not answer is put back too: it may have been paused", async () => {
  const all = await pod();
  const { calls, frozen } = guest({});
  const slow = {
    ...calls,
    pauseContainer: async (request: { containerId: string }) => {
      await calls.pauseContainer(request);
      if (request.containerId === "b") throw new SandboxError("ERR_DEADLINE", "no answer");
    },
  };
  await assert.rejects(setPaused(all, true, slow), { code: "ERR_DEADLINE" });
  assert.deepEqual([[...frozen], states(all)], [[], [false, false, false]]);
});

test("what was paused before, and what has ended, is left alone", async () => {
  const all = await pod();
  const [a, b] = all;
  const { calls, frozen } = guest({ "pause a": refused, "pause b": refused });
  if (a !== undefined) a.paused = true;
  b?.init.settle({ status: 0, exitedAt: new Date() });
  await setPaused(all, true, calls);
  assert.deepEqual([[...frozen], states(all)], [["c"], [true, false, true]]);
});

test("one that ends at the pause, and whose exit waits for its output, is no failure", async () => {
  const all = await pod();
  const { calls, frozen } = guest({});
  const ending = {
    ...calls,
    pauseContainer: async (request: { containerId: string }) => {
      if (request.containerId !== "b") return calls.pauseContainer(request);
      void all[1]?.init.ended({ status: 0, exitedAt: new Date() }, { stdout: 0, stderr: 0 });
      assert.equal(all[1]?.init.exit, undefined);
      throw refused;
    },
  };
  await setPaused(all, true, ending);
  assert.deepEqual(
    [[...frozen], states(all)],
    [
      ["a", "c"],
      [true, false, true],
    ],
  );
});
