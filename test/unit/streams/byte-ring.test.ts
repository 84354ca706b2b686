import assert from "node:assert/strict";
import { randomBytes, randomInt } from "node:crypto";
import { test } from "node:test";
import { ByteRing } from "../../../src/streams/byte-ring.ts";

test("ByteRing gives back what was put in, through random pushes and takes", () => {
  for (let round = 0; round < 50; round++) {
    const ring = new ByteRing(10_000);
    let expected = Buffer.alloc(0);
    for (let step = 0; step < 300; step++) {
      if (randomInt(2) === 0) {
        const bytes = randomBytes(randomInt(0, 10_001 - expected.length));
        ring.push(bytes);
        expected = Buffer.concat([expected, bytes]);
      } else {
        const taken = ring.take(randomInt(1, 4000));
        assert.deepEqual(Buffer.from(taken), expected.subarray(0, taken.length));
        assert.equal(taken.length > 0, expected.length > 0);
        expected = expected.subarray(taken.length);
      }
      assert.equal(ring.length, expected.length);
      assert.ok(ring.capacity <= 10_000);
    }
  }
});

test("ByteRing shows what it keeps from any offset, until it is dropped", () => {
  const ring = new ByteRing(1000);
  let expected = Buffer.alloc(0);
  for (let step = 0; step < 2000; step++) {
    const bytes = randomBytes(randomInt(0, Math.min(300, 1001 - expected.length)));
    ring.push(bytes);
    expected = Buffer.concat([expected, bytes]);
    const seen: Uint8Array[] = [];
    let offset = randomInt(0, expected.length + 1);
    const from = offset;
    for (;;) {
      const part = new Uint8Array(100);
      const count = ring.peek(offset, part);
      if (count === 0) break;
      seen.push(part.subarray(0, count));
      offset += count;
    }
    assert.deepEqual(Buffer.concat(seen), expected.subarray(from));
    const count = randomInt(0, 400);
    ring.drop(count);
    expected = expected.subarray(Math.min(count, expected.length));
    assert.equal(ring.length, expected.length);
  }
  assert.equal(new ByteRing(10).peek(0, new Uint8Array(5)), 0);
});

test("ByteRing refuses to exceed its limit and keeps its content", () => {
  const ring = new ByteRing(10);
  ring.push(Uint8Array.of(1, 2, 3, 4, 5, 6));
  assert.throws(() => ring.push(new Uint8Array(5)), /overflowed/);
  assert.deepEqual([...ring.take(100)], [1, 2, 3, 4, 5, 6]);
});

test("ByteRing starts small, and clear() gives the memory back", () => {
  const ring = new ByteRing(262_144);
  assert.equal(ring.capacity, 0);
  ring.push(new Uint8Array(10));
  assert.ok(ring.capacity <= 4096);
  ring.push(new Uint8Array(200_000));
  ring.clear();
  assert.deepEqual([ring.capacity, ring.length], [0, 0]);
  assert.equal(ring.take(10).length, 0);
});
