import assert from "node:assert/strict";
import { test } from "node:test";
import { describeError, errnoOf, primaryError, SandboxError, Status } from "../../../src/base/errors.ts";
import { UndoStack } from "../../../src/base/undo.ts";
import { statusOf } from "../../../src/ttrpc/errors.ts";

/** A block that fails, and whose undo fails too. */
async function failTwice(): Promise<void> {
  await using undo = new UndoStack();
  undo.defer("step", () => {
    throw new Error("still mounted");
  });
  const cause = Object.assign(new Error("no space"), { code: "ENOSPC" });
  throw new SandboxError("ERR_EXHAUSTED", "cannot write the journal", { cause });
}

test("an error stays the one that is told when the undo fails as well", async () => {
  const error = await failTwice().catch((caught: unknown) => caught);
  assert.equal((primaryError(error) as SandboxError).code, "ERR_EXHAUSTED");
  assert.equal(errnoOf(error), "ENOSPC");
  assert.equal(statusOf(error).code, Status.ResourceExhausted);
  assert.match(
    describeError(error),
    /^cannot write the journal: no space \(and .* undone: .*still mounted\)$/,
  );
});

test("primaryError() of any other value is that value", () => {
  for (const value of [undefined, null, "x", new Error("y")]) assert.equal(primaryError(value), value);
});
