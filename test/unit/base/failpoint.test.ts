import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { armedAction } from "../../../src/base/failpoint.ts";
import { observeAcquires, UndoStack } from "../../../src/base/undo.ts";

test("armedAction reads name=action pairs and arms nothing for anything else", () => {
  const text = "boot.hello=kill, exec.created = stop#2 ,nonsense,vsock.ready=explode";
  assert.deepEqual(armedAction(text, "boot.hello"), {
    action: "kill",
    point: "boot.hello",
    passage: undefined,
  });
  assert.deepEqual(armedAction(text, "exec.created"), { action: "stop", point: "exec.created", passage: 2 });
  for (const name of ["nonsense", "vsock.ready", "boot", "boot.hello2"])
    assert.equal(armedAction(text, name), undefined);
  assert.equal(armedAction("@/no/such/file", "boot.hello"), undefined);
});

test("an acquire is armed by its name or by the words before its path, and by no other prefix", () => {
  assert.equal(armedAction("acquire.mount=error", "acquire.mount /run/x")?.action, "error");
  assert.equal(armedAction("acquire.mount=error", "acquire.mount")?.action, "error");
  assert.equal(armedAction("acquire.mount=error", "acquire.mountain"), undefined);
  assert.equal(armedAction("boot=error", "boot x"), undefined);
});

test("a step whose observer throws is registered and undone", async () => {
  const undone: string[] = [];
  observeAcquires((name) => {
    if (name === "second") throw new Error("armed");
  });
  try {
    const undo = new UndoStack();
    undo.defer("first", () => void undone.push("first"));
    assert.throws(() => undo.defer("second", () => void undone.push("second")), /armed/);
    await undo.disposeAsync();
  } finally {
    observeAcquires(undefined);
  }
  assert.deepEqual(undone, ["second", "first"]);
});

test("the passage counts in the process that passes", () => {
  const script = `
    const { failPoint } = await import("./src/base/failpoint.ts");
    failPoint("boot.hello");
    failPoint("boot.ready");
    failPoint("boot.hello");
    console.log("not reached");`;
  const { stdout, stderr } = spawnSync(
    process.execPath,
    ["--import", "tsx", "--input-type=module", "-e", script],
    {
      cwd: new URL("../../..", import.meta.url),
      env: { ...process.env, CAISSON_FAILPOINTS: "boot.hello=error#2" },
    },
  );
  assert.equal(stdout.toString(), "");
  assert.match(stderr.toString(), /the fail point boot\.hello is armed/);
});
