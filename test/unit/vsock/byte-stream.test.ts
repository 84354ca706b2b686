import assert from "node:assert/strict";
import { Duplex } from "node:stream";
import { test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import { toByteStream } from "../../../src/vsock/byte-stream.ts";

/** A stream whose writes wait for `release` and whose reads are pushed by hand. */
function handDriven() {
  const written: string[] = [];
  const waiting: ((error?: Error) => void)[] = [];
  const duplex = new Duplex({
    allowHalfOpen: true,
    read: () => undefined,
    write(chunk: Buffer, _encoding, done) {
      written.push(chunk.toString());
      waiting.push(done);
    },
  });
  return { duplex, written, release: (error?: Error) => waiting.shift()?.(error) };
}

test("write() resolves when its bytes were taken, in order", async () => {
  const { duplex, written, release } = handDriven();
  const stream = toByteStream(duplex);
  const done: number[] = [];
  void stream.write(Buffer.from("a")).then(() => done.push(1));
  void stream.write(Buffer.from("b")).then(() => done.push(2));
  await turn();
  assert.deepEqual([written, done], [["a"], []]);
  release();
  await turn();
  assert.deepEqual([written, done], [["a", "b"], [1]]);
  release();
  await turn();
  assert.deepEqual(done, [1, 2]);
});

test("readable ends at the peer's end, and writing goes on", async () => {
  const { duplex, written, release } = handDriven();
  const stream = toByteStream(duplex);
  duplex.push("in");
  duplex.push(null);
  const chunks: string[] = [];
  for await (const chunk of stream.readable) chunks.push(Buffer.from(chunk).toString());
  assert.deepEqual(chunks, ["in"]);
  const writing = stream.write(Buffer.from("out"));
  release();
  await writing;
  assert.deepEqual(written, ["out"]);
  assert.equal(duplex.destroyed, false);
});

test("a reader that stops does not close the stream", async () => {
  const { duplex } = handDriven();
  const stream = toByteStream(duplex);
  duplex.push("x");
  for await (const _ of stream.readable) break;
  assert.equal(duplex.destroyed, false);
});

test("destroy() without an error ends the reader; with one, the reader throws it", async () => {
  const first = toByteStream(handDriven().duplex);
  const ended = first.readable[Symbol.asyncIterator]().next();
  first.destroy();
  first.destroy();
  assert.equal((await ended).done, true);
  const second = toByteStream(handDriven().duplex);
  const failed = second.readable[Symbol.asyncIterator]().next();
  second.destroy(new Error("gone"));
  await assert.rejects(failed, /gone/);
  await assert.rejects(second.write(Buffer.from("x")));
});

test("an error of the stream reaches writer and reader and is no unhandled event", async () => {
  const { duplex, release } = handDriven();
  const stream = toByteStream(duplex);
  const writing = stream.write(Buffer.from("x"));
  await turn();
  release(new Error("EPIPE"));
  await assert.rejects(writing, /EPIPE/);
  await assert.rejects(async () => {
    for await (const _ of stream.readable);
  }, /EPIPE/);
});
