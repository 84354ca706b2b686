import assert from "node:assert/strict";
import { test } from "node:test";
import { lastWords } from "../../../src/hypervisor/last-words.ts";
import { TailBuffer } from "../../../src/hypervisor/tail-buffer.ts";

function said(...lines: readonly string[]): TailBuffer {
  const tail = new TailBuffer();
  tail.push(new TextEncoder().encode(lines.map((line) => `${line}\r\n`).join("")));
  return tail;
}

const trace = Array.from({ length: 30 }, (_, i) => `[    3.8] frame ${i}`);

test("the reason of a panic is told first, however long its trace is", () => {
  const console = said("[    3.7] Kernel panic - not syncing: VFS: Unable to mount root fs", ...trace);
  const lines = lastWords(said(), console).split("\n");
  assert.deepEqual(lines.slice(0, 2), [
    "the guest's kernel panicked: VFS: Unable to mount root fs",
    "end of the guest's console:",
  ]);
  assert.deepEqual(lines.slice(2), trace.slice(-8));
});

test("without a panic it is the ends of both outputs, and nothing where both are silent", () => {
  assert.equal(lastWords(said("no kvm"), said()), "QEMU's stderr:\nno kvm");
  assert.equal(
    lastWords(said("no kvm"), said("one")),
    "QEMU's stderr:\nno kvm\nend of the guest's console:\none",
  );
  assert.equal(lastWords(said(), said()), "");
});
