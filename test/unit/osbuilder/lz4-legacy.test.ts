import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import { lz4LegacyDecode, lz4LegacyEncode } from "../../../osbuilder/lz4-legacy.ts";

const magic = [0x02, 0x21, 0x4c, 0x18];

/** Bytes that depend on `seed` alone: random ones mixed with repeats of earlier ones. */
function sample(seed: number, length: number): Buffer {
  const out = Buffer.alloc(length);
  let state = seed;
  const next = () => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    return state >>> 16;
  };
  for (let at = 0; at < length; ) {
    const run = Math.min(1 + (next() % 600), length - at);
    if (at > 0 && next() % 2 === 0) {
      const from = next() % at;
      for (let i = 0; i < run; i++) out[at + i] = out[from + i] as number;
    } else for (let i = 0; i < run; i++) out[at + i] = next() & 0xff;
    at += run;
  }
  return out;
}

test("lz4LegacyDecode() reads a frame written out by hand", () => {
  // "abcabcabcabc!": 3 literals, a match of 9 that overlaps itself at offset 3, then 1 literal.
  const block = [0x35, ...Buffer.from("abc"), 3, 0, 0x10, ...Buffer.from("!")];
  const frame = Buffer.from([...magic, block.length, 0, 0, 0, ...block]);
  assert.equal(Buffer.from(lz4LegacyDecode(frame)).toString(), "abcabcabcabc!");
});

test("lz4LegacyDecode() reads lengths that go on in further bytes", () => {
  // 15 + 255 + 1 = 271 literals, then a match of 19 + 2 = 21 bytes at offset 271, then 1 literal.
  const literals = sample(3, 271);
  const block = [0xff, 255, 1, ...literals, 271 & 0xff, 271 >> 8, 2, 0x10, 0x7a];
  const size = block.length;
  const frame = Buffer.from([...magic, size & 0xff, size >> 8, 0, 0, ...block]);
  const expected = Buffer.concat([literals, literals.subarray(0, 21), Buffer.from("z")]);
  assert.deepEqual(Buffer.from(lz4LegacyDecode(frame)), expected);
});

for (const length of [0, 1, 4, 11, 12, 13, 17, 255, 270, 4096, 70_000, (8 << 20) + 12_345]) {
  test(`lz4LegacyEncode() and lz4LegacyDecode() are inverse for ${length} bytes`, () => {
    const input = sample(length + 1, length);
    assert.ok(Buffer.from(lz4LegacyDecode(lz4LegacyEncode(input))).equals(input));
  });
}

test("lz4LegacyEncode() shrinks repetitive data and always gives the same bytes", () => {
  const input = Buffer.alloc(1_000_000, "all work and no play ");
  const digest = () => createHash("sha256").update(lz4LegacyEncode(input)).digest("hex");
  assert.ok(lz4LegacyEncode(input).length < 10_000);
  assert.equal(digest(), digest());
});

test("lz4LegacyDecode() refuses a frame that is cut at any byte, except between blocks", () => {
  const input = sample(9, 700);
  const frame = lz4LegacyEncode(input);
  for (let cut = 0; cut < frame.length; cut++) {
    if (cut === 4) continue; // a frame of no blocks is whole
    assert.throws(
      () => lz4LegacyDecode(frame.subarray(0, cut)),
      { code: "ERR_INVALID_ARGUMENT" },
      `cut at ${cut}`,
    );
  }
});

test("lz4LegacyDecode() survives random bytes: an error of ours or a result, never anything else", () => {
  for (let seed = 1; seed < 300; seed++) {
    const body = sample(seed * 7919, 200);
    const frame = Buffer.concat([Buffer.from([...magic, 200, 0, 0, 0]), body]);
    try {
      lz4LegacyDecode(frame);
    } catch (error) {
      assert.equal((error as { code?: string }).code, "ERR_INVALID_ARGUMENT");
    }
  }
});

test("lz4LegacyDecode() refuses a match that points before the start", () => {
  const block = [0x10, 0x61, 5, 0, 0x10, 0x62];
  assert.throws(
    () => lz4LegacyDecode(Buffer.from([...magic, block.length, 0, 0, 0, ...block])),
    /match points/,
  );
});
