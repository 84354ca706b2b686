import assert from "node:assert/strict";
import { test } from "node:test";
import {
  nextProcessState,
  type ProcessEvent,
  processTransitions,
} from "../../../src/runtime/process-state.ts";
import {
  nextSandboxState,
  type SandboxEvent,
  sandboxTransitions,
} from "../../../src/runtime/sandbox-state.ts";

const processEvents: ProcessEvent[] = ["start", "started", "exit", "delete", "deleteFailed", "deleted"];
const sandboxEvents: SandboxEvent[] = ["boot", "ready", "fail", "stop", "stopped"];

test("nextProcessState() allows exactly the drawn transitions", () => {
  const allowed = Object.keys(processTransitions).flatMap((state) =>
    processEvents.flatMap((event) => {
      const next = nextProcessState(state as keyof typeof processTransitions, event);
      return next === undefined ? [] : [`${state}+${event}=${next}`];
    }),
  );
  assert.deepEqual(allowed.sort(), [
    "created+delete=deleting",
    "created+exit=exited",
    "created+start=starting",
    "deleting+deleteFailed=exited",
    "deleting+deleted=deleted",
    "exited+delete=deleting",
    "exited+started=exited",
    "running+exit=exited",
    "starting+exit=exited",
    "starting+started=running",
  ]);
});

test("nextSandboxState() allows exactly the drawn transitions", () => {
  const allowed = Object.keys(sandboxTransitions).flatMap((state) =>
    sandboxEvents.flatMap((event) => {
      const next = nextSandboxState(state as keyof typeof sandboxTransitions, event);
      return next === undefined ? [] : [`${state}+${event}=${next}`];
    }),
  );
  assert.deepEqual(allowed.sort(), [
    "booting+fail=failed",
    "booting+ready=running",
    "created+boot=booting",
    "created+fail=failed",
    "created+stop=stopping",
    "failed+fail=failed",
    "failed+stop=stopping",
    "running+fail=failed",
    "running+stop=stopping",
    "stopping+stopped=stopped",
  ]);
});
