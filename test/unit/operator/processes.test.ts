/** What a component takes, of real processes. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { test } from "node:test";
import { usageByComponent, withDescendants } from "../../../src/operator/processes.ts";

/** A shell that waits for a shell that waits for a sleep; says the pids of the three. */
const FAMILY = "sh -c 'sleep 1000 & echo $PPID $$ $!; wait; :'; :";

test("a component is its process and all that descends from it; the shim is itself alone", async () => {
  const child = spawn("sh", ["-c", FAMILY], { stdio: ["ignore", "pipe", "inherit"], detached: true });
  try {
    const [said] = (await once(child.stdout, "data")) as [Buffer];
    const pids = said.toString().trim().split(" ").map(Number);
    const [pid = 0] = pids;
    assert.equal(pid, child.pid);
    const family = withDescendants([
      { name: "virtiofsd", pid },
      { name: "shim", pid: process.pid },
    ]);
    assert.deepEqual(
      family.map((one) => [one.name, one.pid]),
      [...pids.map((one) => ["virtiofsd", one]), ["shim", process.pid]],
    );
    assert.equal(usageByComponent([{ name: "virtiofsd", pid }]).get("virtiofsd")?.threads, 3);
  } finally {
    process.kill(-(child.pid ?? 0), "SIGKILL");
    await once(child, "close");
  }
  assert.deepEqual(withDescendants([{ name: "qemu", pid: child.pid ?? 0 }]), [
    { name: "qemu", pid: child.pid ?? 0 },
  ]);
});

test("the child of a thread that is not the first is found", async () => {
  const inThread = `
    const { Worker } = require("node:worker_threads");
    new Worker('require("node:child_process").spawn("sleep", ["1000"]).once("spawn", () => console.log("up"))', { eval: true });
    process.stdin.resume();`;
  const child = spawn(process.execPath, ["-e", inThread], {
    stdio: ["pipe", "pipe", "inherit"],
    detached: true,
  });
  try {
    await once(child.stdout, "data");
    assert.equal(withDescendants([{ name: "virtiofsd", pid: child.pid ?? 0 }]).length, 2);
  } finally {
    process.kill(-(child.pid ?? 0), "SIGKILL");
    await once(child, "close");
  }
});
