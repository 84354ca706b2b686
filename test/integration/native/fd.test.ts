import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { once } from "node:events";
import fs from "node:fs";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import {
  closeFd,
  dupFd,
  lockFile,
  makePipe,
  memfdCreate,
  openNonBlocking,
  readFd,
  receiveWithFds,
  Seal,
  sealMemfd,
  sendWithFds,
  setCloexec,
  shutdownSocket,
  socketError,
  socketPair,
  tryLock,
  writeFd,
} from "../../../src/native/index.ts";
import { assertNoneOpenedSince, openDescriptors, openedSince } from "../../harness/descriptors.ts";

let scratch = "";
before(() => {
  scratch = fs.mkdtempSync(path.join(os.tmpdir(), "caisson-fd-"));
});
after(() => fs.rmSync(scratch, { recursive: true }));

const isCloexec = (fd: number) =>
  (Number.parseInt(/flags:\s+(\d+)/.exec(fs.readFileSync(`/proc/self/fdinfo/${fd}`, "utf8"))?.[1] ?? "", 8) &
    0o2000000) !==
  0;

test("readFd() and writeFd() say again instead of EAGAIN, 0 at the end, and throw the rest", () => {
  const [out, into] = makePipe();
  const bytes = Buffer.alloc(10);
  assert.equal(readFd(out, bytes), "again");
  assert.equal(writeFd(into, Buffer.from("hello"), 1, 3), 3);
  assert.equal(readFd(out, bytes, 4), 3);
  assert.equal(bytes.toString("latin1", 4, 7), "ell");
  let total = 0;
  for (let count = 0; ; total += count) {
    const answer = writeFd(into, new Uint8Array(100_000));
    if (answer === "again") break;
    count = answer;
  }
  assert.equal(total, 65_536);
  closeFd(into);
  for (let count: number | "again" = -1; count !== 0; ) count = readFd(out, new Uint8Array(100_000));
  closeFd(out);
  assert.throws(() => readFd(out, bytes), { code: "EBADF", errno: -9, syscall: "read" });
});

test("a write to a pipe without a reader is EPIPE and no signal", () => {
  const [out, into] = makePipe();
  closeFd(out);
  assert.throws(() => writeFd(into, Uint8Array.of(1)), { code: "EPIPE", syscall: "write" });
  closeFd(into);
});

test("arguments of a wrong type or beyond the bytes are refused before any system call", () => {
  const native = (fd: unknown, ...rest: unknown[]) =>
    (readFd as (...args: unknown[]) => unknown)(fd, ...rest);
  assert.throws(() => native("0", new Uint8Array(1)), { code: "ERR_INVALID_ARG_TYPE" });
  assert.throws(() => native(-1, new Uint8Array(1)), { code: "ERR_INVALID_ARG_TYPE" });
  assert.throws(() => native(1.5, new Uint8Array(1)), { code: "ERR_INVALID_ARG_TYPE" });
  assert.throws(() => native(0, new Uint16Array(1)), { code: "ERR_INVALID_ARG_TYPE" });
  assert.throws(() => native(0, new Uint8Array(4), 2, 3), { code: "ERR_OUT_OF_RANGE" });
  assert.throws(() => native(0, new Uint8Array(4), 5, 0), { code: "ERR_OUT_OF_RANGE" });
  assert.throws(() => openNonBlocking("a\0b", 0), { code: "ERR_INVALID_ARG_TYPE" });
});

test("descriptors cross a unix socket, by themselves and through a Node socket", async () => {
  const before = openDescriptors();
  const [a, b] = socketPair();
  const file = path.join(scratch, "passed");
  fs.writeFileSync(file, "content");
  const fd = fs.openSync(file, "r");
  assert.equal(sendWithFds(a, Buffer.from("x"), [fd, fd]), 1);
  fs.closeSync(fd);
  const bytes = new Uint8Array(10);
  const received = receiveWithFds(b, bytes);
  assert.ok(received !== "again");
  assert.equal(received.bytesRead, 1);
  assert.equal(received.fds.length, 2);
  for (const one of received.fds) {
    assert.equal(isCloexec(one), true);
    closeFd(one);
  }
  assert.equal(receiveWithFds(b, bytes), "again");
  shutdownSocket(a, "write");
  assert.deepEqual(receiveWithFds(b, bytes), { bytesRead: 0, fds: [] });
  const socket = new net.Socket({ fd: a });
  const memory = memfdCreate("test");
  assert.equal(sendWithFds(b, Buffer.from("{}"), [memory]), 2);
  assert.equal((await once(socket, "data"))[0].toString(), "{}");
  socket.destroy();
  await once(socket, "close");
  closeFd(b);
  closeFd(memory);
  // libuv received the message without asking for descriptors: the kernel closed the copy.
  assertNoneOpenedSince(before);
});

test("sendWithFds() takes 253 descriptors, refuses more and none-with-no-byte", () => {
  const [a, b] = socketPair();
  assert.equal(sendWithFds(a, Uint8Array.of(1), new Array(253).fill(0)), 1);
  const received = receiveWithFds(b, new Uint8Array(1));
  assert.ok(received !== "again" && received.fds.length === 253);
  received.fds.forEach(closeFd);
  assert.throws(() => sendWithFds(a, Uint8Array.of(1), new Array(254).fill(0)), {
    code: "ERR_INVALID_ARG_TYPE",
  });
  assert.throws(() => sendWithFds(a, new Uint8Array(0), [0]), { code: "ERR_OUT_OF_RANGE" });
  assert.throws(() => sendWithFds(a, Uint8Array.of(1), [19_999]), { code: "EBADF", syscall: "sendmsg" });
  closeFd(b);
  assert.throws(() => sendWithFds(a, Uint8Array.of(1), []), { code: "EPIPE" });
  closeFd(a);
});

test("dupFd() copies with CLOEXEC, and setCloexec() decides what a child inherits", () => {
  const fd = memfdCreate("shared");
  const copy = dupFd(fd);
  assert.notEqual(copy, fd);
  assert.equal(isCloexec(copy), true);
  setCloexec(copy, false);
  assert.equal(isCloexec(copy), false);
  setCloexec(copy, true);
  assert.equal(isCloexec(copy), true);
  closeFd(copy);
  closeFd(fd);
  assert.throws(() => dupFd(fd), { code: "EBADF" });
});

test("openNonBlocking() never waits for the other end of a FIFO", () => {
  const fifo = path.join(scratch, "fifo");
  execFileSync("mkfifo", [fifo]);
  assert.throws(() => openNonBlocking(fifo, fs.constants.O_WRONLY), { code: "ENXIO", syscall: "open" });
  const reader = openNonBlocking(fifo, fs.constants.O_RDONLY);
  const writer = openNonBlocking(fifo, fs.constants.O_WRONLY);
  assert.equal(isCloexec(reader) && isCloexec(writer), true);
  assert.equal(readFd(reader, new Uint8Array(1)), "again");
  closeFd(writer);
  assert.equal(readFd(reader, new Uint8Array(1)), 0);
  closeFd(reader);
  closeFd(openNonBlocking(fifo, fs.constants.O_RDWR));
});

test("memfdCreate() makes a file in memory that can be sealed when asked for", () => {
  const fd = memfdCreate("sealed", { sealing: true });
  fs.writeSync(fd, "fixed");
  sealMemfd(fd, Seal.Write | Seal.Grow | Seal.Shrink);
  assert.throws(() => fs.writeSync(fd, "more"), { code: "EPERM" });
  closeFd(fd);
  const plain = memfdCreate("plain");
  assert.throws(() => sealMemfd(plain, Seal.Write), { code: "EPERM" });
  closeFd(plain);
});

test("socketError() throws a socket's pending error once", () => {
  const [a, b] = socketPair();
  writeFd(a, Uint8Array.of(1));
  closeFd(b); // with unread data: the other end gets ECONNRESET
  assert.throws(() => socketError(a, "connect"), { code: "ECONNRESET", syscall: "connect" });
  socketError(a, "connect");
  closeFd(a);
});

test("tryLock() tells whether somebody else holds the lock", () => {
  const file = path.join(scratch, "lock");
  const first = fs.openSync(file, "w");
  const second = fs.openSync(file, "w");
  assert.equal(tryLock(first, "shared"), true);
  assert.equal(tryLock(second, "shared"), true);
  assert.equal(tryLock(second, "exclusive"), false);
  fs.closeSync(first);
  assert.equal(tryLock(second, "exclusive"), true);
  fs.closeSync(second);
});

test("lockFile() waits its turn, and an aborted wait leaves neither lock nor descriptor", async () => {
  const before = openDescriptors();
  const file = path.join(scratch, "queue");
  const never = new AbortController().signal;
  const holder = await lockFile(file, never);
  const abort = new AbortController();
  const given = lockFile(file, abort.signal);
  abort.abort(new Error("changed my mind"));
  await assert.rejects(given, /changed my mind/);
  const next = lockFile(file, never);
  closeFd(holder);
  closeFd(await next);
  while (openedSince(before).length > 0) await new Promise((resolve) => setTimeout(resolve, 5));
  assertNoneOpenedSince(before);
  await assert.rejects(lockFile(path.join(scratch, "no", "lock"), never), {
    code: "ENOENT",
    syscall: "open",
  });
});

test("lockFile() locks a directory, too", async () => {
  const directory = fs.mkdtempSync(path.join(scratch, "queue-"));
  const never = new AbortController().signal;
  const holder = await lockFile(directory, never);
  const other = fs.openSync(directory, "r");
  assert.equal(tryLock(other), false);
  closeFd(holder);
  assert.equal(tryLock(other), true);
  fs.closeSync(other);
});

test("many waiting jobs do not keep libuv's four threads from their work", async () => {
  const file = path.join(scratch, "crowd");
  const never = new AbortController().signal;
  const holder = await lockFile(file, never);
  const waiting = Array.from({ length: 12 }, () => lockFile(file, never).then(closeFd));
  assert.equal(await fs.promises.readFile("/proc/self/comm", "utf8").then((text) => text.length > 0), true);
  closeFd(holder);
  await Promise.all(waiting);
});
