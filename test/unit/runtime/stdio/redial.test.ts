import assert from "node:assert/strict";
import { test } from "node:test";
import { SandboxError } from "../../../../src/base/errors.ts";
import { silentLog } from "../../../../src/base/log.ts";
import type { OutputSink } from "../../../../src/runtime/stdio/endpoints.ts";
import { type DialStream, type GuestStream, ProcessIo } from "../../../../src/runtime/stdio/process-io.ts";

/** A reader that takes everything, and whose end of file resolves `ended`. */
function reader() {
  const chunks: Uint8Array[] = [];
  let end: () => void = () => undefined;
  const ended = new Promise<void>((resolve) => {
    end = resolve;
  });
  const sink: OutputSink = {
    write: async (bytes) => void chunks.push(bytes),
    finish: async () => end(),
    patienceMs: 60_000,
    close: () => end(),
    released: Promise.resolve(),
  };
  return { sink, ended, text: () => Buffer.concat(chunks).toString() };
}

/** Gives `text` and then breaks, or ends where it is the last. */
function stream(text: string, last: boolean): GuestStream {
  return {
    readable: (async function* () {
      if (text !== "") yield Buffer.from(text);
      if (!last) throw new SandboxError("ERR_UNAVAILABLE", "the connection broke");
    })(),
    send: async () => undefined,
    sendEof: async () => undefined,
    reset: () => undefined,
  };
}

/** A process whose stdout is dialled by `dial`. */
async function attached(sink: OutputSink, dial: DialStream): Promise<ProcessIo> {
  const io = new ProcessIo({ stdin: undefined, stdout: sink, stderr: undefined }, silentLog);
  await io.attach(dial);
  return io;
}

const unavailable = () => Promise.reject(new SandboxError("ERR_UNAVAILABLE", "no room"));

test("a dial that fails after a break is repeated", async () => {
  const { sink, ended, text } = reader();
  const asked: number[] = [];
  await attached(sink, (_, received) => {
    asked.push(received);
    if (asked.length === 1) return Promise.resolve(stream("abc", false));
    return asked.length < 4 ? unavailable() : Promise.resolve(stream("de", true));
  });
  await ended;
  assert.equal(text(), "abcde");
  assert.deepEqual(asked, [0, 3, 3, 3]);
});

test("streams that bring something may break as often as they like", async () => {
  const { sink, ended, text } = reader();
  const parts = [..."abcdefghijkl"];
  let dialled = 0;
  await attached(sink, () => {
    const part = parts[dialled++] ?? "";
    return Promise.resolve(stream(part, dialled === parts.length));
  });
  await ended;
  assert.equal(text(), parts.join(""));
});

test("streams that bring nothing end the output by one deadline, however they fail", async (t) => {
  process.env.CAISSON_TIMEOUT_SCALE = "0.04"; // 200 ms
  t.after(() => delete process.env.CAISSON_TIMEOUT_SCALE);
  const never = () => new Promise<GuestStream>(() => undefined);
  const ways: DialStream[] = [unavailable, () => Promise.resolve(stream("", false)), never];
  for (const way of ways) {
    const { sink, ended, text } = reader();
    let dialled = 0;
    await attached(sink, (name, received) => {
      dialled += 1;
      return dialled === 1 ? Promise.resolve(stream("abc", false)) : way(name, received);
    });
    await ended;
    assert.equal(text(), "abc");
    assert.ok(dialled >= (way === never ? 2 : 3), `dialled ${dialled} times`);
  }
});

test("a refusal by the guest ends the output, and so does close()", async () => {
  const refused = reader();
  let dialled = 0;
  await attached(refused.sink, () => {
    dialled += 1;
    if (dialled === 1) return Promise.resolve(stream("abc", false));
    return Promise.reject(new SandboxError("ERR_STATE", "there is no process"));
  });
  await refused.ended;
  assert.equal(dialled, 2);
  const closed = reader();
  let late: GuestStream | undefined;
  const resets: string[] = [];
  let answer: (stream: GuestStream) => void = () => undefined;
  const io = await attached(closed.sink, () => {
    if (late === undefined) {
      late = { ...stream("", true), reset: (reason) => void resets.push(reason) };
      return Promise.resolve(stream("abc", false));
    }
    return new Promise((resolve) => {
      answer = resolve;
    });
  });
  await new Promise((resolve) => setTimeout(resolve, 60));
  io.close();
  await closed.ended;
  if (late !== undefined) answer(late);
  await new Promise((resolve) => setImmediate(resolve));
  assert.ok(resets.length > 0, "a stream that comes after close() is reset");
});
