/** A supervised child in another network namespace. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readlinkSync } from "node:fs";
import { test } from "node:test";
import { silentLog } from "../../../src/base/log.ts";
import { superviseChild } from "../../../src/hypervisor/child-process.ts";

const command = {
  name: "readlink",
  file: "/bin/readlink",
  args: ["/proc/self/ns/net"],
  stdout: "capture",
  log: silentLog,
} as const;

test("a child with netnsPath runs in that network namespace, with the pid that we know", async () => {
  // unshare execs cat, which stays until its input ends.
  const holder = spawn("unshare", ["--net", "cat"], { stdio: ["pipe", "ignore", "inherit"] });
  try {
    const path = `/proc/${holder.pid}/ns/net`;
    const own = readlinkSync("/proc/self/ns/net");
    const deadline = performance.now() + 5000;
    while (readlinkSync(path) === own) {
      assert.ok(performance.now() < deadline, "unshare made no namespace");
      await new Promise((done) => setTimeout(done, 5));
    }
    const child = await superviseChild({ ...command, netnsPath: path });
    assert.equal((await child.exited).code, 0);
    assert.equal(child.stdout.text().trim(), readlinkSync(path));

    const sleeper = await superviseChild({ ...command, file: "/bin/sleep", args: ["60"], netnsPath: path });
    await new Promise((done) => setTimeout(done, 50));
    assert.match(
      readlinkSync(`/proc/${sleeper.pid}/exe`),
      /sleep|coreutils/,
      "nsenter and setpriv became the child",
    );
    await sleeper.stop();
  } finally {
    holder.stdin.end();
    await new Promise((resolve) => holder.once("exit", resolve));
  }
});

test("a network namespace that is gone is a crash with the reason", async () => {
  const child = await superviseChild({ ...command, netnsPath: "/run/netns/absent" });
  assert.match((await child.crashed).message, /^readlink exited with code 1: .*\/run\/netns\/absent/);
});
