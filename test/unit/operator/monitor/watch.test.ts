/** Sandboxes as they come and go, by the kernel's own word. */
import assert from "node:assert/strict";
import { appendFileSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, beforeEach, test } from "node:test";
import { SandboxWatch } from "../../../../src/operator/monitor/watch.ts";
import { sandboxRecord } from "../../../../src/operator/sandbox-record.ts";
import { processStartTime } from "../../../../src/persist/proc.ts";

const base = mkdtempSync(join(tmpdir(), "caisson-watch-"));
let root = "";
let count = 0;
beforeEach(() => {
  count += 1;
  root = join(base, String(count), "caisson");
  process.env.CAISSON_RUN_ROOT = root;
});
after(() => {
  delete process.env.CAISSON_RUN_ROOT;
  rmSync(base, { recursive: true, force: true });
});

const line = (add: number, record: object) => `${JSON.stringify({ add, record })}\n`;
const ownProcess = (name: string) => ({
  kind: "process",
  name,
  pid: process.pid,
  startTime: processStartTime(process.pid),
});

/** As makeSandboxDir does it: under another name first. */
function addSandbox(id: string): string {
  const making = join(root, `.new-1-1-${id}`);
  const dir = join(root, `${id}-00000000`);
  mkdirSync(making, { recursive: true });
  writeFileSync(join(making, "journal"), line(1, { kind: "facts", facts: { sandbox: id } }));
  renameSync(making, dir);
  return dir;
}

/** Waits for what the kernel tells. @throws after 10 s */
async function until(what: string, condition: () => boolean): Promise<void> {
  const deadline = performance.now() + 10_000;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error(`not within 10 s: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

const records = (watch: SandboxWatch) =>
  watch.sandboxes().map(({ dir, journal }) => sandboxRecord(dir, journal));
const ids = (watch: SandboxWatch) => records(watch).map(({ id }) => id);

test("a watch that began before the first sandbox sees it come, change and go", async () => {
  using watch = new SandboxWatch();
  assert.deepEqual(ids(watch), []);
  const dir = addSandbox("one");
  await until("the sandbox is seen", () => ids(watch)[0] === "one");
  assert.equal(records(watch)[0]?.owned, false);
  appendFileSync(join(dir, "journal"), line(2, ownProcess("shim")));
  await until("its process is seen", () => records(watch)[0]?.owned === true);
  rmSync(dir, { recursive: true });
  await until("it is gone", () => ids(watch).length === 0);
  // Another one of the same name is not taken for the old one.
  addSandbox("one");
  await until("the new one is seen", () => ids(watch)[0] === "one");
  assert.equal(records(watch)[0]?.owned, false);
});

test("sandboxes that were there before are there, and a journal is read only when it has changed", async () => {
  const dirs = ["a", "b", "c"].map(addSandbox);
  using watch = new SandboxWatch();
  assert.deepEqual(ids(watch).sort(), ["a", "b", "c"]);
  for (let i = 0; i < 5; i++) records(watch);
  assert.equal(watch.journalsRead, 3);
  appendFileSync(join(dirs[1] ?? "", "journal"), line(2, ownProcess("qemu")));
  await until("the process is seen", () => records(watch).some(({ processes }) => processes.length === 1));
  assert.equal(watch.journalsRead, 4);
});
