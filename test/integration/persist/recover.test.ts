/** Undoing a journal on real mounts and processes. Needs root. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import { silentLog } from "../../../src/base/log.ts";
import { mountsBelow, removeTree } from "../../../src/base/remove-tree.ts";
import { detachMount, mount } from "../../../src/native/index.ts";
import { Journal, type JournalRecord } from "../../../src/persist/journal.ts";
import { findHolders, processStartTime } from "../../../src/persist/proc.ts";
import { removeSandbox } from "../../../src/persist/recover.ts";
import { abandonedDirs, makeSandboxDir, sandboxDirs, sandboxPaths } from "../../../src/persist/run-dir.ts";
import { recoverDeps, removeLeftover } from "../../../src/shim/delete.ts";

/** A private tmpfs: what a failed test leaves mounted goes away with it. */
let scratch = "";
before(async () => {
  scratch = fs.mkdtempSync(path.join(os.tmpdir(), "caisson-recover-"));
  await mount("tmpfs", scratch, "tmpfs", ["size=16m", "mode=0700"]);
  await mount("none", scratch, "none", ["private"]);
  process.env.CAISSON_RUN_ROOT = path.join(scratch, "run");
  fs.mkdirSync(path.join(scratch, "run"));
});
after(async () => {
  await detachMount(scratch);
  fs.rmdirSync(scratch);
});

const deps = recoverDeps(silentLog);

/** A directory outside of every sandbox whose content must survive. */
function userData(name: string): { dir: string; assertKept: () => void } {
  const dir = path.join(scratch, name);
  fs.mkdirSync(dir);
  fs.writeFileSync(path.join(dir, "precious"), "data");
  return { dir, assertKept: () => assert.equal(fs.readFileSync(path.join(dir, "precious"), "utf8"), "data") };
}

function sandbox(name: string, records: readonly JournalRecord[] = []): string {
  const dir = path.join(scratch, "run", name);
  fs.mkdirSync(dir);
  const journal = Journal.create(sandboxPaths(dir).journal);
  for (const record of records) journal.add(record);
  journal.close();
  return dir;
}

async function bind(source: string, target: string): Promise<void> {
  fs.mkdirSync(target, { recursive: true });
  await mount(source, target, "none", ["bind"]);
}

function startSleep(...words: string[]): ChildProcess {
  const child = spawn("/bin/sleep", ["60"], { argv0: words[0] ?? "/bin/sleep", stdio: "ignore" });
  return child;
}

function shimRecord(pid: number): JournalRecord {
  return { kind: "process", name: "shim", pid, startTime: processStartTime(pid) ?? "0" };
}

test("removeTree() leaves a tree with a mount in it, also when it is named through a link", async () => {
  const user = userData("user-link");
  const dir = sandbox("linked");
  await bind(user.dir, path.join(dir, "shared/c/rootfs"));
  const link = path.join(scratch, "link");
  fs.symlinkSync(path.join(scratch, "run"), link);
  assert.throws(() => removeTree(path.join(link, "linked")), /still mounted below it/);
  user.assertKept();
  await removeSandbox(path.join(link, "linked"), deps);
  user.assertKept();
  assert.equal(fs.existsSync(dir), false);
});

test("removeSandbox() unmounts before it removes: what was bound in survives", async () => {
  const user = userData("user-bind");
  const dir = path.join(scratch, "run", "bound");
  const root = path.join(dir, "shared/c/rootfs");
  sandbox("bound", [{ kind: "mount", path: root }]);
  await bind(user.dir, root);
  await bind(user.dir, path.join(dir, "shared/c/unrecorded"));
  assert.deepEqual(await removeSandbox(dir, deps), []);
  user.assertKept();
  assert.deepEqual(mountsBelow(dir), []);
  assert.equal(fs.existsSync(dir), false);
  assert.deepEqual(await removeSandbox(dir, deps), []);
});

test("removeSandbox() unmounts nothing of the host where the guest has put a link on the way", async () => {
  const user = userData("user-linked");
  const other = path.join(scratch, "other-pod");
  await bind(user.dir, path.join(other, "rootfs"));
  const dir = path.join(scratch, "run", "redirected");
  const root = path.join(dir, "shared/c/rootfs");
  sandbox("redirected", [{ kind: "mount", path: root }]);
  await bind(user.dir, root);
  fs.renameSync(path.join(dir, "shared/c"), path.join(dir, "shared/moved"));
  fs.symlinkSync(other, path.join(dir, "shared/c"));
  assert.deepEqual(await removeSandbox(dir, deps), []);
  assert.deepEqual(mountsBelow(other), [path.join(other, "rootfs")]);
  user.assertKept();
  assert.equal(fs.existsSync(dir), false);
});

test("removeSandbox() kills the journal's processes, and no other that has the pid now", async () => {
  const ours = startSleep();
  const other = startSleep();
  const dir = sandbox("killed", [
    shimRecord(ours.pid ?? 0),
    { kind: "process", name: "qemu", pid: other.pid ?? 0, startTime: "1" },
  ]);
  const exited = once(ours, "exit");
  assert.deepEqual(await removeSandbox(dir, deps), []);
  assert.deepEqual((await exited)[1], "SIGKILL");
  assert.equal(other.exitCode, null);
  assert.notEqual(processStartTime(other.pid ?? 0), undefined);
  other.kill("SIGKILL");
});

test("removeSandbox() finds a process whose pid was not written any more", async () => {
  const dir = path.join(scratch, "run", "unwritten");
  sandbox("unwritten", [{ kind: "spawn", name: "virtiofsd", file: "/bin/sh", marker: dir }]);
  // The shell's builtin keeps it alive without another process; its argument is in the sandbox's directory.
  const child = spawn("setpriv", ["--", "/bin/sh", "-c", "read x", `${dir}/fs.sock`], {
    stdio: ["pipe", "ignore", "ignore"],
  });
  const bystander = spawn("/bin/sh", ["-c", "read x", `${dir}-other/fs.sock`], {
    stdio: ["pipe", "ignore", "ignore"],
  });
  await once(child, "spawn");
  const exited = once(child, "exit");
  assert.deepEqual(await removeSandbox(dir, deps), []);
  assert.deepEqual((await exited)[1], "SIGKILL");
  assert.notEqual(processStartTime(bystander.pid ?? 0), undefined);
  bystander.kill("SIGKILL");
});

test("removeSandbox() does what it can with a damaged journal and touches nothing outside", async () => {
  const user = userData("user-damaged");
  const dir = sandbox("damaged", [
    { kind: "mount", path: user.dir },
    { kind: "cgroup", path: user.dir },
    { kind: "net", plan: { version: 9 } },
  ]);
  fs.appendFileSync(sandboxPaths(dir).journal, '\n{"add":');
  const failures = await removeSandbox(dir, deps);
  assert.equal(failures.length, 2);
  user.assertKept();
  assert.equal(fs.existsSync(dir), false);
});

test("removeSandbox() keeps the journal while a cgroup is in use, and ends its work the next time", async () => {
  // By a child, as it is by a process that the kernel does not let end.
  const hierarchy = fs.existsSync("/sys/fs/cgroup/cgroup.procs") ? "" : "pids";
  const cgroup = path.join("/sys/fs/cgroup", hierarchy, `caisson-test-${process.pid}`);
  const dir = sandbox("busy", [{ kind: "cgroup", path: cgroup }]);
  fs.mkdirSync(path.join(cgroup, "child"), { recursive: true });
  try {
    const [failure = ""] = await removeSandbox(dir, deps);
    assert.match(failure, /^cgroup: .*EBUSY/);
    await assert.rejects(
      removeLeftover(dir, silentLog),
      /an earlier sandbox of this id has not gone .*EBUSY/,
    );
    assert.ok(fs.existsSync(sandboxPaths(dir).journal));
  } finally {
    fs.rmdirSync(path.join(cgroup, "child"));
  }
  assert.deepEqual(await removeSandbox(dir, deps), []);
  assert.deepEqual([fs.existsSync(dir), fs.existsSync(cgroup)], [false, false]);
});

test("removeLeftover() makes room for a new sandbox of the id of a dead one, and leaves a living one", async () => {
  const dead = startSleep();
  const living = startSleep();
  const deadDir = sandbox("dead", [shimRecord(dead.pid ?? 0)]);
  const livingDir = sandbox("living", [shimRecord(living.pid ?? 0)]);
  const exited = once(dead, "exit");
  dead.kill("SIGKILL");
  await exited;
  await removeLeftover(deadDir, silentLog);
  await removeLeftover(livingDir, silentLog);
  assert.equal(fs.existsSync(deadDir), false);
  assert.equal(fs.existsSync(livingDir), true);
  living.kill("SIGKILL");
  fs.rmSync(livingDir, { recursive: true });
});

test("makeSandboxDir() shows the directory only once it is filled, and refuses one that is there", () => {
  const dir = path.join(scratch, "run", "made");
  makeSandboxDir(dir, (making) => {
    fs.writeFileSync(path.join(making, "journal"), "x");
    assert.equal(fs.existsSync(dir), false);
    assert.ok(!sandboxDirs().includes(making));
    assert.deepEqual(abandonedDirs(), []);
  });
  assert.throws(() => makeSandboxDir(dir, (making) => fs.writeFileSync(path.join(making, "journal"), "y")), {
    code: "ERR_ALREADY_EXISTS",
  });
  assert.equal(fs.readFileSync(path.join(dir, "journal"), "utf8"), "x");
  assert.deepEqual(fs.readdirSync(path.join(scratch, "run")), ["made"]);
  fs.rmSync(dir, { recursive: true });
});

test("abandonedDirs() names those whose maker is gone", () => {
  const gone = path.join(scratch, "run", ".new-999999-12345-x");
  fs.mkdirSync(gone);
  assert.deepEqual(abandonedDirs(), [gone]);
  fs.rmdirSync(gone);
});

test("findHolders() finds who listens at a socket, and nobody at another", async () => {
  const socket = path.join(scratch, "s.sock");
  const script = `require("net").createServer().listen(${JSON.stringify(socket)}, () => console.log("up"))`;
  const child = spawn(process.execPath, ["-e", script], { stdio: ["ignore", "pipe", "ignore"] });
  await once(child.stdout, "data");
  assert.deepEqual(
    findHolders(socket).map(({ pid }) => pid),
    [child.pid],
  );
  assert.deepEqual(findHolders(`${socket}x`), []);
  const exited = once(child, "exit");
  child.kill("SIGKILL");
  await exited;
  assert.deepEqual(findHolders(socket), []);
});
