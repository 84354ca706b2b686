import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { SandboxError } from "../../../src/base/errors.ts";
import { silentLog } from "../../../src/base/log.ts";
import { loadSupervisor } from "../../../src/hypervisor/child-process.ts";
import { listenForChild } from "../../../src/hypervisor/listening-socket.ts";

let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "caisson-listen-"));
});
afterEach(() => rmSync(root, { recursive: true }));

/** A child that blocks in accept() on descriptor 3, sends "served" and exits: what virtiofsd does. */
const acceptor =
  'open(my $s, "+<&=3") or die; accept(my $c, $s) or die "accept: $!"; syswrite($c, "served");';

test("a connection made before the child exists is served by the child, and the path is gone", async () => {
  const path = join(root, "q.sock");
  const spawn = await loadSupervisor();
  const listener = listenForChild(path, { keepPath: false });
  const client = connect(path);
  const child = spawn({
    name: "acceptor",
    file: "/usr/bin/perl",
    args: ["-e", acceptor],
    inheritFds: [listener.fd],
    log: silentLog,
  });
  listener.close();
  assert.deepEqual(readdirSync(root), []);
  const received = await new Promise<string>((resolve) =>
    client.once("data", (chunk) => resolve(String(chunk))),
  );
  assert.equal(received, "served");
  assert.equal((await child.exited).code, 0);
  client.destroy();
});

test("a kept path serves connections made later, although our copy is closed", async () => {
  const path = join(root, "fs.sock");
  writeFileSync(path, "stale");
  const spawn = await loadSupervisor();
  const listener = listenForChild(path, { keepPath: true });
  const child = spawn({
    name: "acceptor",
    file: "/usr/bin/perl",
    args: ["-e", acceptor],
    inheritFds: [listener.fd],
    log: silentLog,
  });
  listener.close();
  listener.close();
  assert.deepEqual(readdirSync(root), ["fs.sock"]);
  assert.ok(statSync(path).isSocket());
  const client = connect(path);
  const received = await new Promise<string>((resolve) =>
    client.once("data", (chunk) => resolve(String(chunk))),
  );
  assert.equal(received, "served");
  const exit = await child.exited;
  assert.equal(exit.code, 0, exit.stderrTail);
  client.destroy();
});

test("listenForChild() names a path that is too long or in no directory", () => {
  const refused = (path: string, why: RegExp) =>
    assert.throws(
      () => listenForChild(path, { keepPath: true }),
      (error) => error instanceof SandboxError && error.code === "ERR_HOST" && why.test(error.message),
    );
  refused(`/tmp/${"x".repeat(120)}`, /longer than 106 bytes/);
  refused(join(root, "absent/x.sock"), /absent\/x\.sock: is its directory there/);
  assert.equal(existsSync(join(root, "absent")), false);
});
