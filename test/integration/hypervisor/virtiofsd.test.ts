/** The distribution's virtiofsd: started with a listening socket, stopped, and seen to crash. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { silentLog } from "../../../src/base/log.ts";
import type { SupervisedChild } from "../../../src/hypervisor/child-process.ts";
import { detectFlavour, startVirtiofsd } from "../../../src/hypervisor/virtiofsd.ts";
import { virtiofsdPath } from "../../harness/paths.ts";

let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "caisson-fsd-"));
  mkdirSync(join(root, "shared"));
});
afterEach(() => rmSync(root, { recursive: true }));

function start(extraArgs: readonly string[] = []): Promise<SupervisedChild> {
  return startVirtiofsd({
    path: virtiofsdPath(),
    sharedDir: join(root, "shared"),
    socketPath: join(root, "fs.sock"),
    cache: "auto",
    extraArgs,
    log: silentLog,
  });
}

/** Processes whose command line names our directory: the daemon runs as two. */
function processes(): string[] {
  const pids = execFileSync("ls", ["/proc"])
    .toString()
    .split("\n")
    .filter((name) => /^\d+$/.test(name));
  return pids.filter((pid) => {
    try {
      return readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(join(root, "shared"));
    } catch {
      return false;
    }
  });
}

async function until(what: string, condition: () => boolean): Promise<void> {
  const deadline = performance.now() + 5000;
  while (!condition()) {
    assert.ok(performance.now() < deadline, what);
    await new Promise((done) => setTimeout(done, 10));
  }
}

test("detectFlavour() agrees with what the daemon says of itself", () => {
  const text = execFileSync(virtiofsdPath(), ["--version"]).toString();
  assert.equal(detectFlavour(virtiofsdPath()), /FUSE kernel interface/.test(text) ? "c" : "rust", text);
});

test("the socket accepts connections as soon as startVirtiofsd() resolved, and the daemon ends with its client", async () => {
  await using child = await start();
  const client = connect(join(root, "fs.sock"));
  await new Promise((resolve, reject) => client.once("connect", resolve).once("error", reject));
  // GET_FEATURES of the vhost-user protocol: request 1, version 1, no payload; the answer has 8 bytes of payload.
  client.write(Buffer.from([1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]));
  const answer = await new Promise<Buffer>((resolve) => client.once("data", resolve));
  assert.deepEqual([answer.readUInt32LE(0), answer.readUInt32LE(8)], [1, 8]);
  client.destroy();
  const exit = await child.exited;
  assert.equal(exit.requested, false);
  await until("nothing of the daemon is left", () => processes().length === 0);
});

test("stop() ends the daemon and the process that it forked", async () => {
  const child = await start();
  await until("the daemon forked into its sandbox", () => processes().length > 0);
  const exit = await child.stop();
  assert.equal(exit.requested, true);
  await until("nothing of the daemon is left", () => processes().length === 0);
});

test("a daemon that refuses its arguments is a crash with its own words", async () => {
  const child = await start(["--no-such-option"]);
  const crash = await child.crashed;
  assert.match(crash.message, /^virtiofsd exited with code \d+: .*no-such-option/);
});
