/**
 * A program for the agent's runtime that provokes what the agent must survive and prints what happened, one line each;
 * test/integration/guest-agent/runtime.test.ts builds and runs it.
 */
import "../src/web-globals.ts";

import * as sys from "sys";
import { EventLoop } from "../src/event-loop.ts";
import { AT_FDCWD, EPOLLIN, SIGCHLD } from "../src/linux.ts";
import { trackRejections } from "../src/rejections.ts";
import { installTimers } from "../src/timers.ts";

const print = (line: string) => sys.write(1, sys.encodeUtf8(`${line}\n`));
const report = (error: unknown) =>
  print(`reported: ${error instanceof Error ? error.message : String(error)}`);
const loop = new EventLoop(report);
installTimers(loop);
trackRejections(report);
sys.setTurn(() => loop.turn());

const pause = (delayMs: number) => new Promise<void>((resolve) => setTimeout(resolve, delayMs));

async function timers(): Promise<void> {
  const order: string[] = [];
  setTimeout(() => order.push("20"), 20);
  setTimeout(() => order.push("10"), 10);
  const cleared = setTimeout(() => order.push("cleared"), 5);
  clearTimeout(cleared);
  setTimeout(() => order.push("0"), 0);
  queueMicrotask(() => order.push("job"));
  order.push("now");
  await pause(40);
  print(`timers: ${order.join(" ")}`);
}

async function failures(): Promise<void> {
  setTimeout(() => {
    throw new Error("thrown in a timer");
  }, 0);
  void Promise.reject(new Error("rejected and not handled"));
  const late = Promise.reject(new Error("handled late"));
  queueMicrotask(() => void late.catch(() => undefined));
  await pause(20);
  print("failures: survived");
}

/** Far more than the heap may have; every attempt must end in an error. */
async function memory(): Promise<void> {
  let outcome = "no error";
  try {
    const hoard: Uint8Array[] = [];
    for (let i = 0; i < 1000; i++) hoard.push(new Uint8Array(1 << 20));
  } catch (error) {
    outcome = String(error);
  }
  await pause(0);
  print(`memory: ${outcome}`);
  try {
    const deeper = (n: number): number => 1 + deeper(n + 1);
    deeper(0);
  } catch (error) {
    print(`stack: ${String(error)}`);
  }
}

function errors(): void {
  try {
    sys.openat(AT_FDCWD, "/does/not/exist", 0, 0);
  } catch (error) {
    const { code, errno, syscall, message } = error as sys.SysError;
    print(`error: ${code} ${errno} ${syscall} | ${message} | ${error instanceof Error}`);
  }
  try {
    sys.mkdirat(AT_FDCWD, "/tmp/with\0zero", 0o700);
  } catch (error) {
    print(`zero byte: ${(error as sys.SysError).code}`);
  }
  for (const [offset, length] of [
    [-1, 1],
    [0, 17],
    [16, 1],
    [2 ** 40, 1],
  ] as const) {
    try {
      sys.read(0, new Uint8Array(16), offset, length);
      print("range: accepted");
    } catch (error) {
      print(`range: ${error instanceof RangeError}`);
    }
  }
}

function text(): void {
  const sample = "aä€😀\u0000z";
  const bytes = new TextEncoder().encode(sample);
  print(`encoded: ${[...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`);
  print(`decoded: ${new TextDecoder().decode(bytes) === sample}`);
  const malformed = ["ff", "c080", "eda080", "f4908080", "e282", "f0808080"].map((hex) =>
    Uint8Array.from(hex.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16)),
  );
  print(`malformed: ${malformed.map((sequence) => sys.validUtf8(sequence)).join(" ")}`);
  print(`valid: ${sys.validUtf8(bytes)} ${sys.validUtf8(new Uint8Array(0))}`);
}

/** A callback that closes the watch of another ready descriptor: that one must not be called any more. */
async function watches(): Promise<void> {
  const calls: string[] = [];
  const [readA, writeA] = sys.pipe2(0);
  const [readB, writeB] = sys.pipe2(0);
  sys.write(writeA, new Uint8Array(1));
  sys.write(writeB, new Uint8Array(1));
  const a = loop.watch(readA, EPOLLIN, () => {
    calls.push("a");
    a.close();
    b.close();
  });
  const b = loop.watch(readB, EPOLLIN, () => {
    calls.push("b");
    a.close();
    b.close();
  });
  await pause(20);
  for (const fd of [readA, writeA, readB, writeB]) sys.close(fd);
  print(`watches: ${calls.length} of 2 called`);
}

async function children(): Promise<void> {
  let signals = 0;
  const watch = loop.onSignals([SIGCHLD], () => signals++);
  const pid = sys.fork();
  if (pid === 0) sys.exit(3);
  for (let i = 0; i < 200 && signals === 0; i++) await pause(5);
  const [reaped, status] = sys.waitpid(-1, 1);
  print(`child: ${reaped === pid} ${status >> 8} ${signals > 0} ${sys.waitpid(pid, 1)[0]}`);
  watch.close();
}

async function main(): Promise<void> {
  errors();
  text();
  await timers();
  await failures();
  await watches();
  await children();
  await memory();
  print("done");
  sys.exit(0);
}

void main();
