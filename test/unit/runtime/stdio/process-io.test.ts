import assert from "node:assert/strict";
import { test } from "node:test";
import { silentLog } from "../../../../src/base/log.ts";
import type { OutputSink } from "../../../../src/runtime/stdio/endpoints.ts";
import { type GuestStream, ProcessIo } from "../../../../src/runtime/stdio/process-io.ts";

const PATIENCE_MS = 60;

/** A sink that takes everything at once, or nothing ever. */
function sink(takes: boolean): OutputSink & { readonly text: () => string } {
  const chunks: Uint8Array[] = [];
  return {
    write: (bytes) => {
      if (!takes) return new Promise(() => undefined);
      chunks.push(bytes);
      return Promise.resolve();
    },
    finish: () => Promise.resolve(),
    patienceMs: PATIENCE_MS,
    close: () => undefined,
    released: Promise.resolve(),
    text: () => Buffer.concat(chunks).toString(),
  };
}

/** A stream with these chunks; one without an end stands still after them, until it is reset. */
function guestStream(chunks: readonly string[], ends: boolean): GuestStream {
  let broken: (error: Error) => void = () => undefined;
  const still = new Promise<never>((_, reject) => {
    broken = reject;
  });
  still.catch(() => undefined);
  return {
    readable: (async function* () {
      for (const chunk of chunks) yield Buffer.from(chunk);
      if (!ends) await still;
    })(),
    send: () => Promise.resolve(),
    sendEof: () => Promise.resolve(),
    reset: (reason) => broken(new Error(reason)),
  };
}

/** The process's stdout comes from `streams`, one for each time that it is dialled. */
async function attached(stdout: OutputSink, streams: GuestStream[]): Promise<ProcessIo> {
  const io = new ProcessIo({ stdin: undefined, stdout, stderr: undefined }, silentLog);
  await io.attach(() => {
    const next = streams.shift();
    return next === undefined ? Promise.reject(new Error("refused")) : Promise.resolve(next);
  });
  return io;
}

test("drain() resolves when all output was delivered", async () => {
  const stdout = sink(true);
  const io = await attached(stdout, [guestStream(["a", "b"], true)]);
  assert.equal(await io.drain(), "delivered");
  assert.equal(stdout.text(), "ab");
});

test("drain() dials a stream again that stands still after the process's end", async () => {
  const stdout = sink(true);
  const io = await attached(stdout, [guestStream(["a"], false), guestStream(["b"], true)]);
  assert.equal(await io.drain(), "delivered");
  assert.equal(stdout.text(), "ab");
});

test("drain() gives up on a guest that does not send, and on a reader that does not read, and tells which", async () => {
  const silent = await attached(sink(true), [guestStream([], false), guestStream([], false)]);
  assert.equal(await silent.drain(), "unsent");
  silent.close();
  const again = guestStream(["again"], true);
  const streams = [guestStream(["a"], false), again];
  const unread = await attached(sink(false), streams);
  assert.equal(await unread.drain(), "unread");
  assert.deepEqual(streams, [again], "a reader that stalls is no reason to dial again");
  unread.close();
});
