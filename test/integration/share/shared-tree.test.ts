/** The shared tree on real mounts, with a guest that changes what lies in it. Needs root. */
import assert from "node:assert/strict";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import { Worker } from "node:worker_threads";
import { mountsBelow, removeGuestTree } from "../../../src/base/remove-tree.ts";
import { observeAcquires } from "../../../src/base/undo.ts";
import { createMounter, detachMount, mount } from "../../../src/native/index.ts";
import { Journal } from "../../../src/persist/journal.ts";
import { sandboxPaths } from "../../../src/persist/run-dir.ts";
import { SharedTree, type ShareRequest } from "../../../src/resources/share/shared-tree.ts";

/** A private tmpfs: what a failed test leaves mounted goes away with it. */
let scratch = "";
before(async () => {
  scratch = fs.mkdtempSync(path.join(os.tmpdir(), "caisson-share-"));
  await mount("tmpfs", scratch, "tmpfs", ["size=64m", "mode=0700"]);
  await mount("none", scratch, "none", ["private"]);
});
after(async () => {
  await detachMount(scratch);
  fs.rmdirSync(scratch);
});

async function makeTree(name: string) {
  const dir = path.join(scratch, name);
  fs.mkdirSync(dir);
  const { journal: file, shared } = sandboxPaths(dir);
  const journal = Journal.create(file);
  return { journal, tree: await SharedTree.create(shared, createMounter({ beneath: dir }), journal) };
}

function targetOf(fd: string): string {
  try {
    return fs.readlinkSync(`/proc/self/fd/${fd}`);
  } catch {
    return ""; // that of the listing itself
  }
}

/** A directory of the host that no sandbox has to do with. */
function hostDir(name: string, ...files: string[]): string {
  const dir = path.join(scratch, name);
  for (const file of files) {
    fs.mkdirSync(path.dirname(path.join(dir, file)), { recursive: true });
    fs.writeFileSync(path.join(dir, file), "data");
  }
  return dir;
}

const request = (source: string, kind: "dir" | "file"): ShareRequest => ({
  source,
  kind,
  readonly: undefined,
  recursive: false,
  destination: "/volume",
});

test("a tree whose making fails at the last step leaves neither a mount nor a descriptor", async () => {
  const descriptors = () => fs.readdirSync("/proc/self/fd").map(targetOf);
  const inTree = () => descriptors().filter((file) => file.startsWith(path.join(scratch, "failing/shared")));
  observeAcquires((name) => {
    if (name !== "tree descriptor") return;
    assert.equal(inTree().length, 1);
    throw new Error("struck");
  });
  try {
    await assert.rejects(makeTree("failing"), /struck/);
  } finally {
    observeAcquires(undefined);
  }
  assert.deepEqual(inTree(), []);
  assert.deepEqual(mountsBelow(path.join(scratch, "failing")), []);
});

test("a volume is not made through a link that the guest has put in its place", async () => {
  const { tree } = await makeTree("guessed");
  const host = hostDir("guessed-host", "precious", "volume");
  fs.symlinkSync(path.join(host, "precious"), path.join(tree.path, ".volumes/0"));
  await assert.rejects(tree.share(request(path.join(host, "volume"), "file"), async () => undefined));
  assert.equal(fs.readFileSync(path.join(host, "precious"), "utf8"), "data");
  await tree[Symbol.asyncDispose]();
});

test("a volume's end removes nothing of the host where the guest has replaced the volumes' directory", async () => {
  const { tree, journal } = await makeTree("replaced");
  const host = hostDir("replaced-host", "0/precious", "1/precious", "2");
  const volume = hostDir("replaced-volume", "file");
  const held = await tree.share(request(volume, "dir"), async () => undefined);
  const file = await tree.share(request(path.join(volume, "file"), "file"), async () => undefined);
  fs.renameSync(path.join(tree.path, ".volumes"), path.join(tree.path, ".moved"));
  fs.symlinkSync(host, path.join(tree.path, ".volumes"));
  await Promise.allSettled([held.release(), file.release()]);
  await assert.rejects(tree.share(request(path.join(volume, "file"), "file"), async () => undefined));
  assert.deepEqual(fs.readdirSync(host).sort(), ["0", "1", "2"]);
  assert.equal(fs.readFileSync(path.join(host, "0/precious"), "utf8"), "data");
  assert.equal(fs.readFileSync(path.join(volume, "file"), "utf8"), "data");
  await tree[Symbol.asyncDispose]();
  assert.ok(journal.open.every((record) => record.kind === "mount"));
});

test("what a container leaves is removed, with everything that the guest has put there", async () => {
  const { tree, journal } = await makeTree("left");
  const root = hostDir("left-root", "file");
  const undo = await tree.addContainer("c", [{ type: "bind", source: root, options: ["rbind"] }]);
  fs.mkdirSync(path.join(tree.path, "c/more/and/more"), { recursive: true });
  const held = await tree.share(request(root, "dir"), async () => undefined);
  await undo.disposeAsync();
  await held.release();
  assert.deepEqual(fs.readdirSync(tree.path), [".volumes"]);
  assert.deepEqual(fs.readdirSync(path.join(tree.path, ".volumes")), []);
  assert.equal(fs.readFileSync(path.join(root, "file"), "utf8"), "data");
  await tree[Symbol.asyncDispose]();
  assert.deepEqual(journal.open, []);
});

test("nothing is mounted in a tree that is not shared any more", async () => {
  const { tree, journal } = await makeTree("late");
  const root = hostDir("late-root", "file");
  await tree[Symbol.asyncDispose]();
  await assert.rejects(tree.addContainer("c", [{ type: "bind", source: root, options: ["rbind"] }]));
  await assert.rejects(tree.share(request(root, "dir"), async () => undefined));
  assert.deepEqual(mountsBelow(path.join(scratch, "late")), []);
  assert.deepEqual(journal.open, []);
});

test("removeGuestTree() stays in the tree when a directory becomes a link while it is removed", async () => {
  const names = Array.from({ length: 4000 }, (_, index) => `entry${index}`);
  const tree = path.join(scratch, "racing");
  const host = path.join(scratch, "racing-host");
  for (const dir of [path.join(tree, "inner"), host]) {
    for (const name of names) fs.mkdirSync(path.join(dir, name), { recursive: true });
  }
  // Waits for the first entry to go, then puts the link in the directory's place.
  const code = `const fs = require("node:fs"); const { workerData: it, parentPort } = require("node:worker_threads");
    parentPort.postMessage("ready");
    try {
      while (fs.statSync(it.tree + "/inner").nlink === it.links);
      fs.renameSync(it.tree + "/inner", it.tree + "/away");
      fs.symlinkSync(it.host, it.tree + "/inner");
    } catch {} // all was gone before it could`;
  const links = fs.statSync(path.join(tree, "inner")).nlink;
  const guest = new Worker(code, { eval: true, workerData: { tree, host, links } });
  await new Promise((resolve) => guest.once("message", resolve));
  const ended = new Promise((resolve) => guest.once("exit", resolve));
  try {
    removeGuestTree(tree);
  } catch {
    // rm(1) may find an entry gone or a directory anew; it is tried again when the machine has ended.
  }
  await ended;
  assert.equal(fs.readdirSync(host).length, names.length);
});
