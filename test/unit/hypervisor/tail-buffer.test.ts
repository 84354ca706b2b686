import assert from "node:assert/strict";
import { test } from "node:test";
import { LineSplitter, printable, TailBuffer } from "../../../src/hypervisor/tail-buffer.ts";

const bytes = (text: string) => new TextEncoder().encode(text);

test("TailBuffer keeps exactly the last bytes of what was pushed, however it was cut", () => {
  const all = Array.from({ length: 400 }, (_, i) => `line ${i}\n`).join("");
  for (const step of [1, 7, 64, 5000]) {
    const tail = new TailBuffer(100);
    for (let at = 0; at < all.length; at += step) tail.push(bytes(all.slice(at, at + step)));
    assert.equal(tail.text(), all.slice(-100), `step ${step}`);
  }
});

test("TailBuffer.lastLines() gives the last lines without escapes and empty lines", () => {
  const tail = new TailBuffer();
  tail.push(bytes("a\r\n\u001b[1;31mred\u001b[0m\r\n\r\n\u0007last"));
  assert.deepEqual(tail.lastLines(2), ["red", "last"]);
});

test("printable() removes what could drive a terminal and keeps text, tabs and newlines", () => {
  assert.equal(printable("\u001b]0;x\u0007a\tb\u001bc\nä\u007f"), "0;xa\tbc\nä".replace("c\n", "c\n"));
  assert.equal(printable("\u001b[2J\u001b[?25lok"), "ok");
});

test("LineSplitter delivers the same lines at every cut", () => {
  const text = "one\r\ntwo\n\nvier ü\nlast";
  const raw = bytes(text);
  for (let cut = 0; cut <= raw.length; cut++) {
    const lines: string[] = [];
    const splitter = new LineSplitter((line) => lines.push(line));
    splitter.push(raw.subarray(0, cut));
    splitter.push(raw.subarray(cut));
    splitter.flush();
    assert.deepEqual(lines, ["one", "two", "", "vier ü", "last"], `cut at ${cut}`);
  }
});

test("LineSplitter cuts an over-long line and goes on with the next", () => {
  const lines: string[] = [];
  const splitter = new LineSplitter((line) => lines.push(line), 4);
  for (const part of ["ab", "cdef", "gh\nxy", "\n"]) splitter.push(bytes(part));
  assert.deepEqual(lines, ["abcd", "xy"]);
});
