/** A shim that is killed while the kernel wires for it. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { silentLog } from "../../../src/base/log.ts";
import { Journal } from "../../../src/persist/journal.ts";
import { isRunning, processStartTime } from "../../../src/persist/proc.ts";
import { removeSandbox } from "../../../src/persist/recover.ts";
import { sandboxPaths } from "../../../src/persist/run-dir.ts";
import { readPodNetwork } from "../../../src/resources/net/index.ts";
import { undoRecordOf } from "../../../src/resources/net/plan.ts";
import { recoverDeps } from "../../../src/shim/delete.ts";
import { planFor } from "./plan-for.ts";
import { makePod, snapshot } from "./pod-fixture.ts";

const LIMIT_MS = 20_000;

async function until(reached: () => boolean | Promise<boolean>, what: string): Promise<void> {
  const deadline = performance.now() + LIMIT_MS;
  while (!(await reached())) {
    if (performance.now() > deadline) throw new Error(`not ${what} after ${LIMIT_MS} ms`);
    await sleep(1);
  }
}

test("delete waits for what the kernel still does for a killed shim, and undoes that too", async () => {
  const pod = await makePod();
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "caisson-killed-"));
  try {
    const before = await snapshot(pod);
    const { plan, socket, netns } = await planFor(pod, "tcfilter");
    const record = undoRecordOf(plan, netns);
    socket.close();
    netns.close();
    const script = new URL("./slow-wiring.ts", import.meta.url).pathname;
    const shim = spawn(process.execPath, ["--import", "tsx", script, pod.netnsPath], { stdio: "inherit" });
    const ended = once(shim, "exit");
    const pid = shim.pid ?? 0;
    const startTime = processStartTime(pid) ?? "";
    const journal = Journal.create(sandboxPaths(dir).journal);
    journal.add({ kind: "process", name: "shim", pid, startTime });
    journal.add({ kind: "net", plan: record });
    journal.close();
    const begun = async () =>
      (await readPodNetwork(pod.netnsPath)).links.some(({ name }) => name === "begun0");
    await until(begun, "wiring");
    shim.kill("SIGKILL");
    await until(() => !isRunning(pid, startTime), "killed");
    assert.equal(shim.exitCode ?? shim.signalCode, null, "a thread of it is in the kernel yet");
    assert.deepEqual(await removeSandbox(dir, recoverDeps(silentLog)), []);
    await ended;
    assert.equal(await snapshot(pod), before);
  } finally {
    pod.close();
    fs.rmSync(dir, { recursive: true, force: true });
  }
});
