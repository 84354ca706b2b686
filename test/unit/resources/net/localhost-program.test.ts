import assert from "node:assert/strict";
import { test } from "node:test";
import { lookupProgram, socketMapAttributes } from "../../../../src/resources/net/localhost-program.ts";

const instructions = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex").match(/.{16}/g) ?? [];

test("every jump of the lookup program leads to its end, which passes", () => {
  const code = instructions(lookupProgram(9));
  assert.deepEqual(code.slice(-2), ["b700000001000000", "9500000000000000"]);
  const end = code.length - 2;
  for (const [at, instruction] of code.entries()) {
    if (!/^(15|55)/.test(instruction)) continue;
    const offset = Buffer.from(instruction, "hex").readInt16LE(2);
    assert.equal(at + 1 + offset, end, `the jump at ${at}`);
  }
});

test("the map's descriptor is a pseudo load of two slots", () => {
  assert.deepEqual(instructions(lookupProgram(9)).slice(4, 6), ["1811000009000000", "0000000000000000"]);
});

test("the map holds one socket", () => {
  assert.equal(
    Buffer.from(socketMapAttributes()).toString("hex"),
    "0f000000040000000800000001000000".padEnd(40, "0"),
  );
});
