import assert from "node:assert/strict";
import { test } from "node:test";
import { allowsEverything, assembleDeviceFilter } from "../../../guest-agent/src/container/device-program.ts";
import type { DeviceRule } from "../../../guest-agent/src/container/oci-spec.ts";

const rule = (
  allow: boolean,
  type: string,
  major: number | undefined,
  minor: number | undefined,
  access: string,
): DeviceRule => ({
  allow,
  type,
  major,
  minor,
  access,
});

const ACCESS: Readonly<Record<string, number>> = { m: 1, r: 2, w: 4 };

/** Interprets the eBPF subset of the program as the kernel's documentation defines it. */
function asks(program: Uint8Array, type: "b" | "c", major: number, minor: number, access: string): boolean {
  const view = new DataView(program.buffer);
  const bits = [...access].reduce((sum, letter) => sum | (ACCESS[letter] ?? 0), 0);
  const context: Readonly<Record<number, number>> = {
    0: (bits << 16) | (type === "b" ? 1 : 2),
    4: major,
    8: minor,
  };
  const registers = new Array<number>(11).fill(0);
  for (let pc = 0, steps = 0; steps < 10_000; pc++, steps++) {
    const code = view.getUint8(pc * 8);
    const to = view.getUint8(pc * 8 + 1) & 15;
    const from = view.getUint8(pc * 8 + 1) >> 4;
    const offset = view.getInt16(pc * 8 + 2, true);
    const immediate = view.getInt32(pc * 8 + 4, true);
    const get = (register: number) => registers[register] ?? 0;
    if (code === 0x95) return get(0) === 1;
    if (code === 0x61) registers[to] = context[offset] ?? Number.NaN;
    else if (code === 0xb7) registers[to] = immediate;
    else if (code === 0xbf || code === 0xbc) registers[to] = get(from);
    else if (code === 0x54) registers[to] = get(to) & immediate;
    else if (code === 0x74) registers[to] = get(to) >>> immediate;
    else if (code === 0x15) pc += get(to) === immediate ? offset : 0;
    else if (code === 0x55) pc += get(to) !== immediate ? offset : 0;
    else if (code === 0x5d) pc += get(to) !== get(from) ? offset : 0;
    else throw new Error(`instruction 0x${code.toString(16)}`);
  }
  throw new Error("the program does not end");
}

test("without a matching rule everything is denied", () => {
  assert.equal(asks(assembleDeviceFilter([]), "c", 1, 3, "r"), false);
});

test("type, numbers and access must all match", () => {
  const program = assembleDeviceFilter([rule(true, "c", 1, 3, "rw")]);
  assert.equal(asks(program, "c", 1, 3, "r"), true);
  assert.equal(asks(program, "c", 1, 3, "rw"), true);
  assert.equal(asks(program, "c", 1, 3, "m"), false);
  assert.equal(asks(program, "c", 1, 3, "rm"), false, "all of the access must be covered");
  assert.equal(asks(program, "b", 1, 3, "r"), false);
  assert.equal(asks(program, "c", 1, 4, "r"), false);
  assert.equal(asks(program, "c", 2, 3, "r"), false);
});

test("missing and negative numbers match any", () => {
  const program = assembleDeviceFilter([rule(true, "b", 8, undefined, "rwm"), rule(true, "c", -1, 9, "r")]);
  assert.equal(asks(program, "b", 8, 77, "rwm"), true);
  assert.equal(asks(program, "c", 55, 9, "r"), true);
  assert.equal(asks(program, "c", 55, 8, "r"), false);
});

test("later rules win", () => {
  const program = assembleDeviceFilter([
    rule(false, "a", undefined, undefined, "rwm"),
    rule(true, "c", 10, undefined, "rwm"),
    rule(false, "c", 10, 200, "w"),
  ]);
  assert.equal(asks(program, "c", 10, 1, "rw"), true);
  assert.equal(asks(program, "c", 10, 200, "r"), true);
  assert.equal(asks(program, "c", 10, 200, "rw"), false, "a denial of any part denies");
  assert.equal(asks(program, "b", 10, 1, "r"), false);
});

test("no program is needed when the last word is to allow all", () => {
  assert.equal(allowsEverything([]), true);
  assert.equal(
    allowsEverything([
      rule(false, "a", undefined, undefined, "rwm"),
      rule(true, "a", undefined, undefined, "rwm"),
    ]),
    true,
  );
  assert.equal(allowsEverything([rule(true, "a", undefined, undefined, "")]), true);
  assert.equal(allowsEverything([rule(true, "a", undefined, undefined, "r")]), false);
  assert.equal(allowsEverything([rule(true, "c", undefined, undefined, "rwm")]), false);
  assert.equal(
    allowsEverything([rule(true, "a", undefined, undefined, "rwm"), rule(false, "c", 1, 1, "r")]),
    false,
  );
});
