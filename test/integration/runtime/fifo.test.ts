import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { type TestContext, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { openFifoSink, openFifoSource } from "../../../src/runtime/stdio/fifo.ts";
import { runWithoutInotify } from "./without-inotify.ts";

function makeFifo(t: TestContext): string {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "fifo-"));
  t.after(() => fs.rmSync(dir, { recursive: true }));
  const file = path.join(dir, "f");
  execFileSync("mkfifo", [file]);
  return file;
}

/** Everything a reader gets until end of file. */
async function readAll(file: string): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of fs.createReadStream(file)) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}

test("a FIFO sink opens at once without a reader and delivers what a later reader reads", async (t) => {
  const file = makeFifo(t);
  const sink = openFifoSink(file);
  await sink.write(Buffer.from("early "));
  const read = readAll(file);
  await sleep(20);
  await sink.write(Buffer.from("late"));
  await sink.finish(() => undefined);
  assert.equal((await read).toString(), "early late");
});

test("a FIFO sink survives its reader and loses nothing that was not read", async (t) => {
  const file = makeFifo(t);
  const sink = openFifoSink(file);
  t.after(() => sink.close());
  const first = fs.openSync(file, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
  await sink.write(Buffer.from("one"));
  const bytes = Buffer.alloc(3);
  assert.equal(fs.readSync(first, bytes), 3);
  fs.closeSync(first);
  await sink.write(Buffer.from("two")); // nobody reads: no EPIPE, no SIGPIPE
  const second = fs.openSync(file, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
  assert.equal(fs.readSync(second, bytes), 3);
  fs.closeSync(second);
  assert.equal(bytes.toString(), "two");
});

test("a FIFO sink exerts back-pressure on a reader that does not read, and close() ends the wait", async (t) => {
  const file = makeFifo(t);
  const sink = openFifoSink(file);
  const big = sink.write(Buffer.alloc(1 << 20));
  const state = await Promise.race([
    big.then(
      () => "done",
      () => "failed",
    ),
    sleep(50).then(() => "pending"),
  ]);
  assert.equal(state, "pending");
  sink.close();
  await assert.rejects(big, /was closed/);
});

test("a finished FIFO sink keeps what was not read for a reader that comes later, then ends", async (t) => {
  const file = makeFifo(t);
  const sink = openFifoSink(file);
  await sink.write(Buffer.from("first second"));
  const reader = fs.openSync(file, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
  const bytes = Buffer.alloc(6);
  fs.readSync(reader, bytes);
  let progress = 0;
  const finished = sink.finish(() => progress++);
  fs.closeSync(reader); // gone with half of it
  const early = await Promise.race([finished.then(() => "finished"), sleep(50).then(() => "pending")]);
  assert.equal(early, "pending");
  assert.equal((await readAll(file)).toString(), "second");
  await finished;
  assert.ok(progress > 0);
});

test("a FIFO sink tells when what was written has been read, and stops telling", async (t) => {
  const file = makeFifo(t);
  const alive = setInterval(() => undefined, 1000); // a watch alone keeps no process
  t.after(() => clearInterval(alive));
  const sink = openFifoSink(file);
  t.after(() => sink.close());
  const never = new AbortController().signal;
  await sink.read?.(() => undefined, never); // nothing was written
  await sink.write(Buffer.from("onetwo"));
  const reader = fs.openSync(file, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
  t.after(() => fs.closeSync(reader));
  let progress = 0;
  const whole = sink.read?.(() => progress++, never).then(() => "read");
  const bytes = Buffer.alloc(3);
  fs.readSync(reader, bytes);
  assert.equal(await Promise.race([whole, sleep(50, "pending")]), "pending");
  assert.ok(progress > 0);
  fs.readSync(reader, bytes);
  assert.equal(await whole, "read");
  await sink.write(Buffer.from("unread"));
  const stop = new AbortController();
  const stopped = sink.read?.(() => undefined, stop.signal);
  stop.abort();
  await stopped;
  const closed = sink.read?.(() => undefined, never);
  sink.close();
  await closed;
});

test("a FIFO sink ends when it was read also on a host that has no inotify instance left", (t) => {
  const file = makeFifo(t);
  assert.equal(runWithoutInotify("fifo-without-inotify.ts", file), "whole true");
});

test("a finished FIFO sink that nobody reads ends with close()", async (t) => {
  const file = makeFifo(t);
  const sink = openFifoSink(file);
  await sink.write(Buffer.from("lost"));
  const finished = sink.finish(() => undefined);
  fs.unlinkSync(file);
  sink.close();
  await finished;
  await sink.released;
});

test("a FIFO source outlives its writers until finish(), then ends after the last byte", async (t) => {
  const file = makeFifo(t);
  const source = openFifoSource(file);
  const seen: string[] = [];
  const reading = (async () => {
    for await (const chunk of source.chunks) seen.push(Buffer.from(chunk).toString());
  })();
  for (const text of ["first", "second"]) {
    const writer = fs.openSync(file, fs.constants.O_WRONLY | fs.constants.O_NONBLOCK);
    fs.writeSync(writer, text);
    fs.closeSync(writer);
    await sleep(20);
  }
  assert.deepEqual(seen, ["first", "second"]);
  const writer = fs.openSync(file, fs.constants.O_WRONLY | fs.constants.O_NONBLOCK);
  fs.writeSync(writer, "third");
  fs.closeSync(writer);
  source.finish();
  await reading;
  assert.equal(seen.join(""), "firstsecondthird");
});

test("a path that is not a FIFO is refused by name", () => {
  assert.throws(() => openFifoSink("/etc/hostname"), /stdio path \/etc\/hostname is not a named pipe/);
  assert.throws(() => openFifoSource("/no/such/pipe"), /cannot open the stdio pipe \/no\/such\/pipe/);
});

test("a FIFO source whose second descriptor cannot be had leaves none open", (t) => {
  const file = makeFifo(t);
  const held = () =>
    fs.readdirSync("/proc/self/fd").filter((fd) => {
      const stat = fs.statSync(`/proc/self/fd/${fd}`, { throwIfNoEntry: false });
      return stat?.ino === fs.statSync(file).ino && stat.isFIFO();
    });
  const open = fs.openSync;
  t.mock.method(fs, "openSync", (name: string, flags: number) => {
    if ((flags & 3) === fs.constants.O_WRONLY) throw Object.assign(new Error("EMFILE"), { code: "EMFILE" });
    return open(name, flags);
  });
  assert.throws(() => openFifoSource(file), { code: "ERR_INVALID_ARGUMENT" });
  t.mock.restoreAll();
  assert.deepEqual(held(), []);
});
