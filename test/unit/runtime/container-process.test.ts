import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { type TestContext, test } from "node:test";
import { silentLog } from "../../../src/base/log.ts";
import { ContainerProcess, type ProcessGuest } from "../../../src/runtime/container-process.ts";
import type { GuestStream } from "../../../src/runtime/stdio/process-io.ts";

/** A guest that records what it was asked and whose streams are given by the test. */
class RecordingGuest implements ProcessGuest {
  readonly calls: string[] = [];
  startError: Error | undefined;
  stdout: AsyncIterable<Uint8Array> = (async function* () {})();

  async start() {
    this.calls.push("start");
    if (this.startError) throw this.startError;
    return { pid: 7 };
  }
  async signal(signal: number, all: boolean) {
    this.calls.push(`signal ${signal}${all ? " all" : ""}`);
  }
  async resize(columns: number, rows: number) {
    this.calls.push(`resize ${columns}x${rows}`);
  }
  async remove() {
    this.calls.push("remove");
  }
  dial = async (name: string): Promise<GuestStream> => {
    this.calls.push(`dial ${name}`);
    return {
      readable: this.stdout,
      send: async () => undefined,
      sendEof: async () => undefined,
      reset: () => undefined,
    };
  };
}

const noStdio = { stdin: "", stdout: "", stderr: "", terminal: false };
const exitAt = new Date("2026-01-01T00:00:00Z");

async function newProcess(execId = "", stdio = noStdio) {
  const init = { containerId: "c", execId, stdio, namespace: "n", log: silentLog };
  const process = await ContainerProcess.open(init);
  const guest = new RecordingGuest();
  process.bind(guest);
  return { process, guest };
}

function makeFifo(t: TestContext): string {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "process-"));
  t.after(() => fs.rmSync(dir, { recursive: true }));
  execFileSync("mkfifo", [path.join(dir, "f")]);
  return path.join(dir, "f");
}

test("start() runs the process once", async () => {
  const { process } = await newProcess();
  assert.equal(await process.start(), 7);
  assert.equal(process.state, "running");
  await assert.rejects(process.start(), /cannot start a running process: container c/);
});

test("start() that the guest refuses leaves an exited process and the guest's reason", async () => {
  const { process, guest } = await newProcess();
  guest.startError = new Error("no such file");
  await assert.rejects(process.start(), /no such file/);
  assert.equal(process.state, "exited");
  assert.equal((await process.wait()).status, 255);
});

test("an exit that overtakes the answer to start is kept", async () => {
  const { process, guest } = await newProcess();
  guest.start = async () => {
    process.settle({ status: 3, exitedAt: exitAt });
    return { pid: 7 };
  };
  await process.start();
  assert.equal(process.state, "exited");
  assert.deepEqual(await process.wait(), { status: 3, exitedAt: exitAt });
});

test("a process that is lost before its start ends the pipes of the client that will be refused", async (t) => {
  const fifo = makeFifo(t);
  const { process } = await newProcess("", { ...noStdio, stdout: fifo });
  const reader = fs.createReadStream(fifo);
  const ended = new Promise<void>((resolve) => reader.once("end", () => resolve()).resume());
  await new Promise((resolve) => reader.once("open", () => resolve(undefined)));
  process.settle({ status: 137, exitedAt: exitAt });
  await ended;
  await assert.rejects(process.start(), /cannot start a stopped process/);
});

test("the pipes of an exec are opened by its start, not held before", async (t) => {
  const fifo = makeFifo(t);
  const { process, guest } = await newProcess("e", { ...noStdio, stdout: fifo });
  guest.stdout = (async function* () {
    await new Promise(() => undefined);
  })();
  // Without a reader, opening for writing is refused (fifo(7)).
  const { O_WRONLY, O_NONBLOCK } = fs.constants;
  assert.throws(() => fs.openSync(fifo, O_WRONLY | O_NONBLOCK), { code: "ENXIO" });
  await process.start();
  fs.closeSync(fs.openSync(fifo, O_WRONLY | O_NONBLOCK));
  process.release();
});

test("settle() counts once and answers waiters before and after", async () => {
  const { process } = await newProcess();
  await process.start();
  const early = process.wait();
  process.settle({ status: 1, exitedAt: exitAt });
  process.settle({ status: 2, exitedAt: exitAt });
  assert.equal((await early).status, 1);
  assert.equal((await process.wait()).status, 1);
});

test("kill() after the exit is a finished process, before the start of an exec a wrong state", async () => {
  const { process } = await newProcess("e");
  for (const signal of [15, 9]) await assert.rejects(process.kill(signal, false), { code: "ERR_STATE" });
  await process.start();
  process.settle({ status: 0, exitedAt: exitAt });
  await assert.rejects(process.kill(9, false), { code: "ERR_PROCESS_FINISHED" });
});

test("what never ran has no exit of its own; a created container's init was killed", async () => {
  const { process: exec } = await newProcess("e");
  assert.deepEqual(await exec.delete(), { status: 0, exitedAt: new Date(0) });
  await exec.startAnnounced;
  assert.equal(exec.ran, false);
  const { process: init } = await newProcess();
  assert.equal((await init.delete()).status, 137);
  const { process: failed, guest } = await newProcess("f");
  guest.startError = new Error("no such file");
  await assert.rejects(failed.start());
  assert.equal(failed.ran, false);
});

test("delete() is refused while it runs and may be retried after a failure", async () => {
  const { process, guest } = await newProcess();
  await process.start();
  await assert.rejects(process.delete(), /cannot delete a running process: container c/);
  process.settle({ status: 5, exitedAt: exitAt });
  const remove = guest.remove;
  guest.remove = async () => {
    throw new Error("busy");
  };
  await assert.rejects(process.delete(), /busy/);
  assert.equal(process.state, "exited");
  guest.remove = remove;
  assert.equal((await process.delete()).status, 5);
  assert.equal(process.state, "deleted");
});

test("delete() does not wait for a reader that does not read", async (t) => {
  globalThis.process.env.CAISSON_TIMEOUT_SCALE = "0.02"; // 40 ms of drain
  t.after(() => delete globalThis.process.env.CAISSON_TIMEOUT_SCALE);
  const { process, guest } = await newProcess("", { ...noStdio, stdout: makeFifo(t) });
  guest.stdout = (async function* () {
    for (let i = 0; i < 64; i++) yield new Uint8Array(16_384); // 1 MiB into a pipe that nobody reads
  })();
  await process.start();
  process.settle({ status: 0, exitedAt: exitAt });
  assert.equal((await process.delete()).status, 0);
});

test("resize() reaches a terminal while its process lives, and nothing else", async () => {
  const { process: plain, guest: plainGuest } = await newProcess();
  await plain.start();
  await plain.resize(80, 24);
  assert.deepEqual(plainGuest.calls, ["start"]);
  const { process, guest } = await newProcess("", { ...noStdio, terminal: true });
  await process.start();
  await process.resize(80, 24);
  process.settle({ status: 0, exitedAt: exitAt });
  await process.resize(81, 25);
  assert.deepEqual(guest.calls, ["start", "resize 80x24"]);
});

test("open() that cannot open a stdio path names it", async () => {
  await assert.rejects(
    newProcess("", { ...noStdio, stdout: "/no/such" }),
    /cannot open the stdio pipe \/no\/such/,
  );
});

test("ended() tells the exit on when the reader has what was written before it", async (t) => {
  const fifo = makeFifo(t);
  const { process, guest } = await newProcess("", { ...noStdio, stdout: fifo });
  let arrive: () => void = () => undefined;
  guest.stdout = (async function* () {
    await new Promise<void>((resolve) => {
      arrive = resolve;
    });
    yield Buffer.from("late");
    await new Promise(() => undefined); // somebody else still holds the pipe
  })();
  const reader = fs.openSync(fifo, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
  t.after(() => fs.closeSync(reader));
  await process.start();
  const ended = process.ended({ status: 7, exitedAt: exitAt }, { stdout: 4, stderr: 0 });
  const turn = () => new Promise((resolve) => setTimeout(resolve, 20));
  await turn();
  assert.equal(process.state, "running", "the output has not arrived");
  await assert.rejects(process.kill(9, false), { code: "ERR_PROCESS_FINISHED" });
  arrive();
  await turn();
  assert.equal(process.state, "running", "the reader has not read");
  const bytes = Buffer.alloc(8);
  assert.equal(bytes.toString("utf8", 0, fs.readSync(reader, bytes)), "late");
  await ended;
  assert.equal(process.state, "exited");
  assert.deepEqual(await process.wait(), { status: 7, exitedAt: exitAt });
  process.release();
});

test("an exit that waits to be told on is changed neither by settle() nor by another word of the guest", async (t) => {
  const { process, guest } = await newProcess("", { ...noStdio, stdout: makeFifo(t) });
  guest.stdout = (async function* () {
    await new Promise(() => undefined);
  })();
  await process.start();
  const ended = process.ended({ status: 7, exitedAt: exitAt }, { stdout: 4, stderr: 0 });
  await process.ended({ status: 8, exitedAt: exitAt }, { stdout: 4, stderr: 0 }); // and waits for nothing
  process.settle({ status: 137, exitedAt: new Date() }); // the sandbox is lost
  assert.deepEqual(await process.wait(), { status: 7, exitedAt: exitAt });
  process.release();
  await ended;
});
