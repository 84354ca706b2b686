import assert from "node:assert/strict";
import { test } from "node:test";
import { UndoStack } from "../../../src/base/undo.ts";

test("UndoStack runs its steps newest first, once", async () => {
  const ran: string[] = [];
  const undo = new UndoStack();
  undo.defer("a", () => void ran.push("a"));
  undo.defer("b", () => void ran.push("b"));
  await undo.disposeAsync();
  await undo.disposeAsync();
  assert.deepEqual(ran, ["b", "a"]);
});

test("UndoStack goes on after a failed step and reports all failures by name", async () => {
  const ran: string[] = [];
  const undo = new UndoStack();
  undo.defer("first", () => void ran.push("first"));
  undo.defer("broken", () => {
    throw new Error("no");
  });
  await assert.rejects(undo.disposeAsync(), /undo of "broken" failed/);
  assert.deepEqual(ran, ["first"]);
});

test("UndoStack cuts a hanging step at its limit", async () => {
  const ran: string[] = [];
  const undo = new UndoStack(10);
  undo.defer("first", () => void ran.push("first"));
  undo.defer("hangs", () => new Promise(() => undefined));
  await assert.rejects(undo.disposeAsync(), /"hangs"/);
  assert.deepEqual(ran, ["first"]);
});

test("the limit of a step is scaled with all other deadlines", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  process.env.CAISSON_TIMEOUT_SCALE = "3";
  t.after(() => delete process.env.CAISSON_TIMEOUT_SCALE);
  const undo = new UndoStack();
  undo.defer("slow", () => new Promise((resolve) => setTimeout(resolve, 29_000)));
  const done = undo.disposeAsync();
  await new Promise(setImmediate);
  t.mock.timers.tick(29_000);
  await done;
});

test("UndoStack releases at once what is offered after disposal, and throws", async () => {
  const undo = new UndoStack();
  await undo.disposeAsync();
  let released = false;
  const release = () => {
    released = true;
  };
  assert.throws(() => undo.defer("late", release), /cannot register "late"/);
  await Promise.resolve();
  await Promise.resolve();
  assert.equal(released, true);
});

test("UndoStack.move() hands the steps over and leaves the old one empty", async () => {
  const ran: string[] = [];
  const undo = new UndoStack();
  undo.defer("a", () => void ran.push("a"));
  const moved = undo.move();
  await undo.disposeAsync();
  assert.deepEqual(ran, []);
  await moved.disposeAsync();
  assert.deepEqual(ran, ["a"]);
});
