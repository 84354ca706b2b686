import assert from "node:assert/strict";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { gzipSync } from "node:zlib";
import { ModuleTree } from "../../../osbuilder/module-tree.ts";
import { makeModule, temporaryDirectory, writeTree } from "./fixtures.ts";

const release = "6.1.0-test";

async function makeTree(context: TestContext, files: Readonly<Record<string, string | Uint8Array>>) {
  const dir = await temporaryDirectory(context);
  await writeTree(dir, files);
  return ModuleTree.open(dir, release);
}

/** A tree after depmod: lines of modules.dep for modules given as name to the names that modules.dep lists. */
function withModulesDep(
  listed: Readonly<Record<string, readonly string[]>>,
): Record<string, string | Uint8Array> {
  const path = (name: string) => `kernel/${name}.ko`;
  const lines = Object.entries(listed).map(
    ([name, needs]) => `${path(name)}: ${needs.map(path).join(" ")}\n`,
  );
  const files = Object.keys(listed).map((name) => [path(name), makeModule([])] as const);
  return { "modules.dep": lines.join(""), ...Object.fromEntries(files) };
}

async function names(tree: ModuleTree, root: string): Promise<string[]> {
  return (await tree.closure(root)).map((module) => module.name);
}

test("closure() orders a chain and a diamond so that every module follows what it needs", async (t) => {
  // modules.dep lists all dependencies, the one to load first at the end.
  const tree = await makeTree(
    t,
    withModulesDep({ top: ["left", "right", "base"], left: ["base"], right: ["base"], base: [] }),
  );
  const order = await names(tree, "top");
  assert.deepEqual([...order].sort(), ["base", "left", "right", "top"]);
  assert.equal(order[0], "base");
  assert.equal(order[3], "top");
});

test("closure() reads the dependencies from the modules when there is no modules.dep", async (t) => {
  const tree = await makeTree(t, {
    "modules.order": "kernel/a/top.ko\nkernel/b/mid-dle.ko\nkernel/base.ko\n",
    "kernel/a/top.ko": makeModule(["depends=mid_dle,built"]),
    "kernel/b/mid-dle.ko": makeModule(["depends=base"]),
    "kernel/base.ko": makeModule(["depends="]),
    "modules.builtin": "kernel/drivers/built.ko\n",
  });
  assert.equal(tree.hasModulesDep, false);
  assert.deepEqual(await names(tree, "top"), ["base", "mid_dle", "top"]);
});

test("closure() takes soft dependencies that exist, before and after, and leaves out those that do not", async (t) => {
  const tree = await makeTree(t, {
    "modules.order": "kernel/m.ko\nkernel/pre.ko\nkernel/post.ko\n",
    "kernel/m.ko": makeModule(["softdep=pre: crypto-x nowhere post: post"]),
    "kernel/pre.ko": makeModule([]),
    "kernel/post.ko": makeModule(["softdep=pre: m"]),
    "modules.alias": "alias crypto-x pre\n",
  });
  assert.deepEqual(await names(tree, "m"), ["pre", "m", "post"]);
});

test("closure() names both modules when a hard dependency is missing, and the circle when there is one", async (t) => {
  const missing = await makeTree(t, {
    "modules.order": "kernel/m.ko\n",
    "kernel/m.ko": makeModule(["depends=gone"]),
  });
  await assert.rejects(missing.closure("m"), /module m needs gone/);
  const circle = await makeTree(t, withModulesDep({ a: ["b"], b: ["a"] }));
  await assert.rejects(circle.closure("a"), /in a circle: a needs b needs a/);
});

test("load() names the file that modules.dep lists but that is not there", async (t) => {
  const tree = await makeTree(t, { "modules.dep": "kernel/m.ko:\n" });
  await assert.rejects(tree.load("m"), {
    code: "ERR_NOT_FOUND",
    message: /module m .*kernel\/m\.ko does not exist/,
  });
});

test("load() refuses a module of another kernel", async (t) => {
  const tree = await makeTree(t, { "modules.dep": "kernel/m.ko:\n", "kernel/m.ko": makeModule([], "5.0.0") });
  await assert.rejects(tree.load("m"), /m\.ko was built for kernel 5\.0\.0, not for 6\.1\.0-test/);
});

test("load() decompresses a module, also where the index names it without suffix", async (t) => {
  const plain = makeModule(["depends="]);
  const tree = await makeTree(t, { "modules.order": "kernel/m.ko\n", "kernel/m.ko.gz": gzipSync(plain) });
  const module = await tree.load("m");
  assert.ok(Buffer.from(module.bytes).equals(plain));
  assert.equal(module.source, join(tree.dir, "kernel/m.ko.gz"));
});

test("load() says that a compressed module is damaged", async (t) => {
  const damaged = gzipSync(makeModule([])).subarray(0, 40);
  const tree = await makeTree(t, { "modules.dep": "kernel/m.ko.gz:\n", "kernel/m.ko.gz": damaged });
  await assert.rejects(tree.load("m"), {
    code: "ERR_INVALID_ARGUMENT",
    message: /m\.ko\.gz is damaged: its gzip data/,
  });
});

test("locate() knows names with either dash, built-in ones and aliases with wildcards", async (t) => {
  const tree = await makeTree(t, {
    ...withModulesDep({ "virtio-rng": [], overlay: [] }),
    "modules.builtin": "kernel/drivers/virtio/virtio_pci.ko\n",
    "modules.builtin.modinfo": "fuse.license=GPL\0fuse.file=fs/fuse/fuse\0fuse.alias=fs-fuse\0",
    "modules.alias": "# a comment\nalias fs-overlay overlay\nalias virtio:d00000004v* virtio_rng\n",
  });
  assert.deepEqual(tree.locate("virtio_rng"), { kind: "file", name: "virtio_rng" });
  assert.deepEqual(tree.locate("virtio-rng"), { kind: "file", name: "virtio_rng" });
  assert.deepEqual(tree.locate("virtio-pci"), { kind: "builtin", name: "virtio_pci" });
  assert.deepEqual(tree.locate("fs-overlay"), { kind: "file", name: "overlay" });
  assert.deepEqual(tree.locate("fs-fuse"), { kind: "builtin", name: "fuse" });
  assert.deepEqual(tree.locate("virtio:d00000004v00001AF4"), { kind: "file", name: "virtio_rng" });
  assert.equal(tree.locate("nothing"), undefined);
});
