import assert from "node:assert/strict";
import { closeSync, fstatSync, openSync, readSync, writeSync } from "node:fs";
import { test } from "node:test";
import { copyPages, memfdCreate } from "../../../src/native/index.ts";

const PAGE = 4096;
const MIB = 1 << 20;

/** A file in memory of `size` bytes with `text` at each of `places`; the caller closes it. */
function memoryFile(size: number, places: Readonly<Record<number, string>> = {}): number {
  const fd = memfdCreate("test");
  if (size > 0) writeSync(fd, "\0", size - 1);
  for (const [at, text] of Object.entries(places)) writeSync(fd, text, Number(at));
  return fd;
}

function textAt(fd: number, at: number, length: number): string {
  const bytes = Buffer.alloc(length);
  readSync(fd, bytes, 0, length, at);
  return bytes.toString("latin1");
}

test("copyPages() copies what is there, at its place, and as long as it is", async () => {
  const places = { 0: "first", [5 * PAGE + 7]: "middle", [6 * PAGE]: "next", [64 * MIB - PAGE]: "last" };
  const from = memoryFile(64 * MIB, places);
  const to = memoryFile(0);
  assert.equal(await copyPages(from, to), 4 * PAGE);
  assert.equal(fstatSync(to).size, 64 * MIB);
  for (const [at, text] of Object.entries(places)) assert.equal(textAt(to, Number(at), text.length), text);
  assert.equal(fstatSync(to).blocks * 512, 4 * PAGE);
  for (const fd of [from, to]) closeSync(fd);
});

test("copyPages() writes no page of zeroes, also where the source has one", async () => {
  const from = memoryFile(MIB, { 0: "\0".repeat(10 * PAGE), [3 * PAGE + 100]: "x" });
  assert.ok(fstatSync(from).blocks * 512 >= 10 * PAGE);
  const to = memoryFile(0);
  assert.equal(await copyPages(from, to), PAGE);
  assert.equal(textAt(to, 3 * PAGE + 100, 1), "x");
  for (const fd of [from, to]) closeSync(fd);
});

test("copyPages() goes on when its descriptors are closed", async () => {
  const from = memoryFile(16 * MIB, { [15 * MIB]: "x".repeat(PAGE) });
  const to = memoryFile(0);
  const kept = openSync(`/proc/self/fd/${to}`, "r");
  const copying = copyPages(from, to);
  for (const fd of [from, to]) closeSync(fd);
  await copying;
  assert.equal(textAt(kept, 15 * MIB, 3), "xxx");
  closeSync(kept);
});

test("copyPages() tells why it cannot", async () => {
  const from = memoryFile(MIB, { 0: "x" });
  const to = openSync("/dev/null", "r");
  await assert.rejects(copyPages(from, to), { code: "EINVAL", syscall: "ftruncate" });
  assert.throws(() => copyPages(9999, to), { code: "EBADF" });
  for (const fd of [from, to]) closeSync(fd);
});
