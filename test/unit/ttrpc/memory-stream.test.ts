import assert from "node:assert/strict";
import { test } from "node:test";
import type { ByteStream } from "../../../src/base/byte-stream.ts";
import { memoryStreamPair } from "../../../src/ttrpc/memory-stream.ts";

async function readAll(stream: ByteStream): Promise<number[]> {
  const bytes: number[] = [];
  for await (const chunk of stream.readable) bytes.push(...chunk);
  return bytes;
}

test("memory stream carries bytes both ways and ends each direction on its own", async () => {
  const [a, b] = memoryStreamPair();
  await a.write(Uint8Array.of(1, 2));
  a.end();
  assert.deepEqual(await readAll(b), [1, 2]);
  await b.write(Uint8Array.of(3));
  b.end();
  assert.deepEqual(await readAll(a), [3]);
  await assert.rejects(a.write(Uint8Array.of(1)), { code: "ERR_UNAVAILABLE" });
});

test("memory stream write() waits for the reader above its capacity", async () => {
  const [a, b] = memoryStreamPair(4);
  let taken = false;
  const write = a.write(new Uint8Array(5)).then(() => {
    taken = true;
  });
  await new Promise((resolve) => setTimeout(resolve, 5));
  assert.equal(taken, false);
  const reader = b.readable[Symbol.asyncIterator]();
  await reader.next();
  await write;
  assert.equal(taken, true);
});

test("memory stream destroy() lets the peer read what was written before and fails its writes", async () => {
  const [a, b] = memoryStreamPair();
  await a.write(Uint8Array.of(1));
  a.destroy();
  assert.deepEqual(await readAll(b), [1]);
  await assert.rejects(b.write(Uint8Array.of(2)), { code: "ERR_UNAVAILABLE" });
});

test("memory stream destroy(error) throws the error to its own reader and wakes a waiting writer", async () => {
  const [a, b] = memoryStreamPair(1);
  const stuck = b.write(new Uint8Array(10));
  const rejected = assert.rejects(stuck, { code: "ERR_UNAVAILABLE" });
  a.destroy(new Error("gone"));
  await rejected;
  await assert.rejects(readAll(a), /gone/);
});
