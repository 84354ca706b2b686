import assert from "node:assert/strict";
import { mkdir, readdir, symlink, utimes } from "node:fs/promises";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { type ImageFiles, ImageStore } from "../../../osbuilder/image-store.ts";
import { IMAGE_FORMAT, type ImageContent, type ImageFileName } from "../../../osbuilder/manifest.ts";
import { applyPrune, decidePrune, usedImagePaths } from "../../../osbuilder/prune.ts";
import { temporaryDirectory, writeTree } from "./fixtures.ts";

const hash = "0".repeat(64);

function content(release: string): ImageContent {
  return {
    format: IMAGE_FORMAT,
    builder: "test",
    architecture: "x86_64",
    kernel: { release, sha256: hash, bytes: 1 },
    agent: { version: null, sha256: hash, bytes: 1 },
    modules: [],
    builtin: [],
    missing: [],
    extraFiles: [],
    compression: "none",
    sourceDateEpoch: 0,
  };
}

const files: ImageFiles = new Map<ImageFileName, Uint8Array>([
  ["caisson-initrd.img", Buffer.from("initrd")],
  ["vmlinux", Buffer.from("kernel")],
]);

/** A store with images of `releases`, built in that order, the last one linked. */
async function makeStore(context: TestContext, releases: readonly string[]): Promise<ImageStore> {
  const store = new ImageStore(join(await temporaryDirectory(context), "cache"));
  const lock = await store.lock(() => undefined);
  for (const [index, release] of releases.entries()) {
    await store.link(release, await store.publish(content(release), files));
    const time = new Date(1_700_000_000_000 + index * 1000);
    await utimes(join(store.directory(release), "image.json"), time, time);
  }
  await lock[Symbol.asyncDispose]();
  return store;
}

test("list() gives the newest build first and marks the linked image", async (t) => {
  const store = await makeStore(t, ["6.9", "6.10", "6.2"]);
  const images = await store.list();
  assert.deepEqual(
    images.map((image) => [image.release, image.current]),
    [
      ["6.2", true],
      ["6.10", false],
      ["6.9", false],
    ],
  );
});

test("list() shows a damaged image with its problem", async (t) => {
  const store = await makeStore(t, ["6.1"]);
  await mkdir(store.directory("6.2"));
  const broken = (await store.list()).find((image) => image.release === "6.2");
  assert.equal(broken?.manifest, undefined);
  assert.match(broken?.problem ?? "", /6\.2\/image\.json is missing/);
});

test("lock() lets a second run wait until the first is done, telling it that it waits", async (t) => {
  const store = new ImageStore(join(await temporaryDirectory(t), "cache"));
  const order: string[] = [];
  const first = await store.lock(() => undefined);
  const second = store.lock(() => {
    order.push("waits", "released");
    void first[Symbol.asyncDispose]();
  });
  const lock = await second;
  order.push("locked");
  await lock[Symbol.asyncDispose]();
  assert.deepEqual(order, ["waits", "released", "locked"]);
});

test("lock() gives up when it is canceled, and the lock stays usable", async (t) => {
  const store = new ImageStore(join(await temporaryDirectory(t), "cache"));
  const first = await store.lock(() => undefined);
  const controller = new AbortController();
  const second = store.lock(() => controller.abort(), controller.signal);
  await assert.rejects(second, { code: "ERR_CANCELED" });
  await first[Symbol.asyncDispose]();
  const third = await store.lock(() => undefined);
  await third[Symbol.asyncDispose]();
});

test("decidePrune() keeps the current image, those in use and the newest, and says why", async (t) => {
  const store = await makeStore(t, ["a", "b", "c", "d", "e"]);
  await store.link("a", await published(store, "a"));
  const used = new Map([[join(store.directory("b"), "vmlinux"), "pod-1"]]);
  const decisions = decidePrune(await store.list(), used, 2);
  assert.deepEqual(Object.fromEntries(decisions.map(({ image, keep }) => [image.release, keep])), {
    a: "current",
    b: "used by sandbox pod-1",
    c: undefined,
    d: "one of the newest 2",
    e: "one of the newest 2",
  });
  await applyPrune(store, decisions);
  assert.deepEqual((await readdir(store.imagesDir)).sort(), [".lock", "a", "b", "d", "e"]);
});

async function published(store: ImageStore, release: string) {
  const manifest = (await store.read(release))?.manifest;
  assert.ok(manifest !== undefined);
  return manifest;
}

test("decidePrune() does not take an image for used whose name begins another's", async (t) => {
  const store = await makeStore(t, ["6.1", "6.10", "7"]);
  const used = new Map([[join(store.directory("6.10"), "vmlinux"), "pod"]]);
  const old = decidePrune(await store.list(), used, 0).find(({ image }) => image.release === "6.1");
  assert.equal(old?.keep, undefined);
});

test("usedImagePaths() reads the journals of sandboxes and follows links", async (t) => {
  const root = await temporaryDirectory(t);
  await writeTree(root, {
    "images/6.1/initrd": "",
    "run/pod-1/journal": `${JSON.stringify({ add: 1, record: { kind: "facts", facts: { image: join(root, "link"), cid: 3 } } })}\ntorn`,
    "run/pod-2/journal": "",
    "run/stray": "",
  });
  await symlink(join(root, "images/6.1/initrd"), join(root, "link"));
  const used = await usedImagePaths(join(root, "run"));
  assert.deepEqual([...used], [[join(root, "images/6.1/initrd"), "pod-1"]]);
  assert.equal((await usedImagePaths(join(root, "nowhere"))).size, 0);
});
