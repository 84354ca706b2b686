import assert from "node:assert/strict";
import { test } from "node:test";
import {
  exitStatus,
  ProcessLife,
  type ProcessState,
} from "../../../guest-agent/src/container/process-life.ts";

/** A process brought into a state, and how often its exit was told. */
function inState(state: ProcessState): { life: ProcessLife; told: () => number; tell: () => void } {
  const life = new ProcessLife("c", "e");
  let count = 0;
  const tell = () => {
    count++;
  };
  if (state === "starting" || state === "running") life.beginStart();
  if (state === "running") life.started();
  if (state === "exited") {
    life.reaped(0, () => undefined);
  }
  return { life, told: () => count, tell };
}

const events: Readonly<Record<string, (life: ProcessLife, tell: () => void) => void>> = {
  beginStart: (life) => life.beginStart(),
  started: (life) => life.started(),
  failed: (life) => life.failed(),
  reaped: (life, tell) => life.reaped(9, tell),
  settle: (life) => life.settle(),
};

/** [next state, exits told], or the code of the refusal. */
const table: Readonly<
  Record<ProcessState, Readonly<Record<string, readonly [ProcessState, number] | string>>>
> = {
  registered: {
    beginStart: ["starting", 0],
    started: ["registered", 0],
    failed: ["exited", 0],
    reaped: ["exited", 1],
    settle: ["registered", 0],
  },
  starting: {
    beginStart: "ERR_STATE",
    started: ["running", 0],
    failed: ["exited", 0],
    reaped: ["starting", 0],
    settle: ["starting", 0],
  },
  running: {
    beginStart: "ERR_STATE",
    started: ["running", 0],
    failed: ["exited", 0],
    reaped: ["exited", 1],
    settle: ["running", 0],
  },
  exited: {
    beginStart: "ERR_PROCESS_FINISHED",
    started: ["exited", 0],
    failed: ["exited", 0],
    reaped: ["exited", 0],
    settle: ["exited", 0],
  },
};

for (const [state, row] of Object.entries(table)) {
  for (const [event, outcome] of Object.entries(row)) {
    test(`${state} × ${event}`, () => {
      const { life, told, tell } = inState(state as ProcessState);
      const act = () => events[event]?.(life, tell);
      if (typeof outcome === "string") {
        assert.throws(act, { code: outcome });
        assert.equal(life.state, state);
      } else {
        act();
        assert.deepEqual([life.state, told()], outcome);
      }
    });
  }
}

test("an exit during the start is told once start has answered", () => {
  const { life, told, tell } = inState("starting");
  life.reaped(3 << 8, tell);
  life.started();
  assert.equal(told(), 0);
  life.settle();
  life.settle();
  assert.deepEqual([told(), life.state, life.status], [1, "exited", 3]);
});

test("an exit during a start that fails is not told", () => {
  const { life, told, tell } = inState("starting");
  life.reaped(127 << 8, tell);
  life.failed();
  life.settle();
  assert.deepEqual([told(), life.state, life.status], [0, "exited", 127]);
});

test("wait statuses are read as a shell reads them", () => {
  assert.equal(exitStatus(0), 0);
  assert.equal(exitStatus(7 << 8), 7);
  assert.equal(exitStatus(9), 137);
  assert.equal(exitStatus(11 | 0x80), 139, "with a core dump");
});
