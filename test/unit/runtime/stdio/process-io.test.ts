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

test("a stream that breaks is opened again behind what has come", async () => {
  const stdout = { ...sink(true), patienceMs: 5_000 };
  const io = new ProcessIo({ stdin: undefined, stdout, stderr: undefined }, silentLog);
  const asked: number[] = [];
  const parts = ["abc", "", "de"];
  await io.attach((_, received) => {
    asked.push(received);
    const part = parts[asked.length - 1] ?? "";
    const stream = guestStream(part === "" ? [] : [part], asked.length === 4);
    if (asked.length < 4) setTimeout(() => stream.reset("cut"), 5);
    return Promise.resolve(stream);
  });
  assert.equal(await io.drain(), "delivered");
  assert.deepEqual(asked, [0, 3, 3, 5]);
  assert.equal(stdout.text(), "abcde");
});

test("handOver() dials a stream again that stands still with output to come, and one that keeps its end", async (t) => {
  process.env.CAISSON_TIMEOUT_SCALE = "0.3"; // 300 ms to the second dialling, 600 ms for all
  t.after(() => delete process.env.CAISSON_TIMEOUT_SCALE);
  const stdout = sink(true);
  const streams = [guestStream(["a"], false), guestStream(["b"], false), guestStream(["c"], true)];
  const io = await attached(stdout, streams);
  await io.handOver({ stdout: 2, stderr: 0 });
  assert.equal(stdout.text(), "ab");
  while (streams.length > 0) await new Promise((resolve) => setTimeout(resolve, 5));
  assert.equal(await io.drain(), "delivered");
  assert.equal(stdout.text(), "abc");
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

/** A stream whose chunks are given by calls; it never ends. */
function fedStream() {
  const queue: Uint8Array[] = [];
  let wake: () => void = () => undefined;
  const stream: GuestStream = {
    ...guestStream([], false),
    readable: (async function* () {
      for (;;) {
        const chunk = queue.shift();
        if (chunk !== undefined) yield chunk;
        else
          await new Promise<void>((resolve) => {
            wake = resolve;
          });
      }
    })(),
  };
  const feed = (text: string) => {
    queue.push(Buffer.from(text));
    wake();
  };
  return { stream, feed };
}

const soon = () => new Promise((resolve) => setTimeout(resolve, 20, "pending"));
const settled = (promise: Promise<void>) => promise.then(() => "settled");

test("handOver() waits for what was written, not for the end of the stream", async () => {
  const { stream, feed } = fedStream();
  const stdout = sink(true);
  const io = await attached(stdout, [stream]);
  const done = settled(io.handOver({ stdout: 4, stderr: 0 }));
  feed("abc");
  assert.equal(await Promise.race([done, soon()]), "pending");
  feed("d");
  assert.equal(await done, "settled");
  assert.equal(stdout.text(), "abcd");
  feed("more");
  await io.handOver({ stdout: 4, stderr: 0 });
  io.close();
});

test("handOver() waits for the reader of what the sink has taken", async () => {
  const { stream, feed } = fedStream();
  let read: () => void = () => undefined;
  const taken = new Promise<void>((resolve) => {
    read = resolve;
  });
  const io = await attached({ ...sink(true), read: () => taken }, [stream]);
  feed("a");
  const done = settled(io.handOver({ stdout: 1, stderr: 0 }));
  assert.equal(await Promise.race([done, soon()]), "pending");
  read();
  assert.equal(await done, "settled");
  io.close();
});

test("handOver() ends without the output of a guest that lies, and of a reader that does not read", async (t) => {
  process.env.CAISSON_TIMEOUT_SCALE = "0.02"; // 40 ms for the guest, 10 ms for a reader
  t.after(() => delete process.env.CAISSON_TIMEOUT_SCALE);
  const { stream, feed } = fedStream();
  const io = await attached(sink(true), [stream]);
  await io.handOver({ stdout: 2 ** 60, stderr: 2 ** 60 });
  io.close();
  const full = fedStream();
  const stuck = await attached(sink(false), [full.stream]);
  full.feed("a");
  await stuck.handOver({ stdout: 1, stderr: 0 });
  const unread = fedStream();
  const waits = (_: unknown, signal: AbortSignal) =>
    new Promise<void>((resolve) => signal.addEventListener("abort", () => resolve()));
  const idle = await attached({ ...sink(true), read: waits }, [unread.stream]);
  unread.feed("a");
  await idle.handOver({ stdout: 1, stderr: 0 });
  feed("too late");
  for (const each of [stuck, idle]) each.close();
});

test("handOver() does not wait for a stream that has ended or broken for good", async () => {
  const ended = await attached(sink(true), [guestStream(["a"], true)]);
  await ended.handOver({ stdout: 9, stderr: 0 });
  const broken = guestStream([], false);
  const io = await attached(sink(true), [broken]);
  broken.reset("gone"); // and dialling again is refused
  await io.handOver({ stdout: 9, stderr: 0 });
});

test("handOver() does not wait for what a sink that fails will never take", async () => {
  const { stream, feed } = fedStream();
  const stdout = { ...sink(true), write: () => Promise.reject(new Error("the disk is full")) };
  let dialled = 0;
  const io = new ProcessIo({ stdin: undefined, stdout, stderr: undefined }, silentLog);
  await io.attach(() => {
    dialled++;
    return Promise.resolve(stream);
  });
  const done = settled(io.handOver({ stdout: 4, stderr: 0 }));
  feed("abc");
  assert.equal(await Promise.race([done, soon()]), "pending");
  feed("d");
  assert.equal(await Promise.race([done, soon()]), "settled");
  assert.equal(dialled, 1);
  io.close();
});

test("a sink that cannot be finished is closed, and keeps no process from being deleted", async () => {
  let closed = 0;
  const stdout = {
    ...sink(true),
    finish: () => Promise.reject(new Error("no more descriptors")),
    close: () => void closed++,
  };
  const io = await attached(stdout, [guestStream(["a"], true)]);
  assert.equal(await io.drain(), "delivered");
  assert.equal(closed, 1);
});
