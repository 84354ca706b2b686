/** The shared tree on real mounts: what the host puts there, and what a guest can do to it. Needs root. */
import assert from "node:assert/strict";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import { errnoOf } from "../../../src/base/errors.ts";
import { mountsBelow } from "../../../src/base/remove-tree.ts";
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
  fs.mkdirSync(dir, { recursive: true });
  const paths = sandboxPaths(dir);
  const journal = Journal.create(paths.journal);
  return { journal, tree: await SharedTree.create(paths, createMounter({ beneath: dir }), journal) };
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

test("a tree whose making fails at its second mount leaves none", async () => {
  let mounts = 0;
  observeAcquires((name) => {
    if (name.startsWith("mount ") && ++mounts === 2) throw new Error("struck");
  });
  try {
    await assert.rejects(makeTree("failing"), /struck/);
  } finally {
    observeAcquires(undefined);
  }
  assert.deepEqual(mountsBelow(path.join(scratch, "failing")), []);
});

test("a guest writes into its file systems and volumes, and nowhere else in its view", async () => {
  const { tree, journal } = await makeTree("view");
  const root = hostDir("view-root", "file");
  const [volume, kept] = [hostDir("view-volume", "file"), hostDir("view-kept", "file")];
  const { undo: container } = await tree.addContainer("c", [
    { type: "bind", source: root, options: ["rbind"] },
  ]);
  const held = await tree.share(request(volume, "dir"), async () => undefined);
  const readonly = await tree.share({ ...request(kept, "dir"), readonly: "rro" }, async () => undefined);
  const view = (name: string) => path.join(tree.guestPath, name);

  fs.writeFileSync(view("c/rootfs/new"), "of the guest");
  fs.writeFileSync(view(`${held.name}/new`), "of the guest");
  assert.equal(fs.readFileSync(path.join(root, "new"), "utf8"), "of the guest");
  assert.equal(fs.readFileSync(path.join(volume, "new"), "utf8"), "of the guest");
  const refused = (write: () => void) => assert.throws(write, (error) => errnoOf(error) === "EROFS");
  refused(() => fs.writeFileSync(view(`${readonly.name}/new`), ""));
  refused(() => fs.symlinkSync("/etc", view("link")));
  refused(() => fs.mkdirSync(view(".volumes/9")));
  refused(() => fs.renameSync(view(".volumes"), view(".moved")));
  refused(() => fs.writeFileSync(view("c/file"), ""));
  refused(() => fs.chmodSync(view("c"), 0o777));

  await container.disposeAsync();
  await held.release();
  await readonly.release();
  assert.deepEqual(fs.readdirSync(tree.path), [".volumes"]);
  assert.deepEqual(fs.readdirSync(view(".volumes")), []);
  assert.deepEqual(fs.readdirSync(root).sort(), ["file", "new"]);
  await tree[Symbol.asyncDispose]();
  assert.deepEqual(mountsBelow(path.join(scratch, "view")), []);
  assert.deepEqual(journal.open, []);
});

test("a mount is there once in each view also below a directory that is shared, as /run of a host is", async (t) => {
  const host = hostDir("host", "file");
  await mount("none", host, "tmpfs", ["size=1m"]);
  t.after(() => detachMount(host));
  await mount("none", host, "none", ["shared"]);
  const { tree } = await makeTree("host/sandbox");
  const root = hostDir("host-root", "file");
  const { undo: container } = await tree.addContainer("c", [
    { type: "bind", source: root, options: ["rbind"] },
  ]);
  const rootfs = [tree.path, tree.guestPath].map((view) => path.join(view, "c/rootfs"));
  assert.deepEqual(mountsBelow(host), [host, path.dirname(tree.path), tree.path, tree.guestPath, ...rootfs]);
  await container.disposeAsync();
  await tree[Symbol.asyncDispose]();
  assert.deepEqual(mountsBelow(host), [host]);
});

test("a container that goes takes nothing along that the host has mounted in its root file system", async (t) => {
  const { tree } = await makeTree("peer");
  const root = hostDir("peer-root", "file");
  await mount("none", root, "tmpfs", ["size=1m"]);
  t.after(() => detachMount(root));
  await mount("none", root, "none", ["shared"]); // as all of a host is that systemd runs
  const below = path.join(root, "below");
  fs.mkdirSync(below);
  await mount("none", below, "tmpfs", ["size=1m"]);
  const { undo: container } = await tree.addContainer("c", [
    { type: "bind", source: root, options: ["rw", "rbind"] },
  ]);
  assert.ok(mountsBelow(tree.guestPath).includes(path.join(tree.guestPath, "c/rootfs/below")));
  await container.disposeAsync();
  assert.deepEqual(mountsBelow(root), [root, below]);
  await tree[Symbol.asyncDispose]();
  assert.deepEqual(mountsBelow(path.join(scratch, "peer")), []);
});

test("a container has a place that no earlier one of its name had: the guest may still know that", async () => {
  const { tree } = await makeTree("again");
  const root = hostDir("again-root", "file");
  const names: string[] = [];
  for (let i = 0; i < 3; i++) {
    const { name, undo } = await tree.addContainer("c", [{ type: "bind", source: root, options: ["rbind"] }]);
    assert.deepEqual(fs.readdirSync(path.join(tree.guestPath, name)), ["file"]);
    names.push(name);
    await undo.disposeAsync();
  }
  assert.equal(new Set(names).size, names.length, names.join(", "));
  await tree[Symbol.asyncDispose]();
});

test("a path that names another file now is mounted anew, for who comes now", async () => {
  const { tree } = await makeTree("replaced");
  const file = path.join(hostDir("replaced-host", "conf"), "conf");
  const share = () => tree.share(request(file, "file"), async () => undefined);
  const read = (name: string) => fs.readFileSync(path.join(tree.guestPath, name), "utf8");
  const first = await share();
  assert.equal((await share()).name, first.name);
  fs.writeFileSync(`${file}.new`, "newer");
  fs.renameSync(`${file}.new`, file);
  const later = await share();
  assert.deepEqual([read(first.name), read(later.name)], ["data", "newer"]);
  await tree[Symbol.asyncDispose]();
});

test("a volume of what the sandboxes lie in has none of their mounts in it", async () => {
  const { tree: other } = await makeTree("outer/other");
  const { tree } = await makeTree("outer/own");
  const whole = { ...request(path.join(scratch, "outer"), "dir"), recursive: true };
  const mounts = () => mountsBelow(path.join(scratch, "outer")).length;
  const before = mounts();
  const { name } = await tree.share(whole, async () => undefined);
  assert.equal(mounts(), before + 2, "the volume, in both views");
  const root = hostDir("outer-root", "file");
  await other.addContainer("c", [{ type: "bind", source: root, options: ["rbind"] }]);
  assert.equal(mounts(), before + 4, "the container's, in both views");
  assert.ok(fs.existsSync(path.join(tree.guestPath, name, "other")));
  for (const one of [tree, other]) await one[Symbol.asyncDispose]();
  assert.deepEqual(mountsBelow(path.join(scratch, "outer")), []);
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
