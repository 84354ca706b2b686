/** The stream below every AF_VSOCK connection, over AF_UNIX descriptors: the same code, whatever the family. */
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import fs from "node:fs";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { pipeline } from "node:stream/promises";
import { test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import { SandboxError } from "../../../src/base/errors.ts";
import { closeFd, dupFd, readFd, shutdownSocket, socketPair, writeFd } from "../../../src/native/index.ts";
import { FdAcceptor, FdDuplex, toByteStream } from "../../../src/vsock/index.ts";
import { assertNoneOpenedSince, openDescriptors } from "../../harness/descriptors.ts";

async function closed(...streams: FdDuplex[]): Promise<void> {
  await Promise.all(streams.map((stream) => (stream.closed ? undefined : once(stream.destroy(), "close"))));
}

test("32 MB are echoed byte-exact through two streams", async () => {
  const before = openDescriptors();
  const [a, b] = socketPair().map((fd) => new FdDuplex(fd, { allowHalfOpen: true })) as [FdDuplex, FdDuplex];
  const data = randomBytes(32 * 1024 * 1024);
  const echoing = pipeline(b, b);
  const received = createHash("sha256");
  const reading = (async () => {
    for await (const chunk of a) received.update(chunk);
  })();
  for (let at = 0; at < data.length; at += 1_000_000) {
    if (!a.write(data.subarray(at, at + 1_000_000))) await once(a, "drain");
  }
  a.end();
  await Promise.all([echoing, reading]);
  assert.equal(received.digest("hex"), createHash("sha256").update(data).digest("hex"));
  await closed(a, b);
  assertNoneOpenedSince(before);
});

test("a reader that does not read stops the writer within the kernel's and the stream's buffers", async () => {
  const [a, b] = socketPair().map((fd) => new FdDuplex(fd)) as [FdDuplex, FdDuplex];
  let taken = 0;
  const chunk = new Uint8Array(16_384);
  const write = () => {
    a.write(chunk, (error) => {
      if (error) return;
      taken += chunk.length;
      write();
    });
  };
  write();
  for (let quiet = 0, last = -1; quiet < 50; quiet++) {
    if (taken !== last) quiet = 0;
    last = taken;
    await turn();
  }
  assert.ok(taken > 0 && taken < 1_000_000, `${taken}`);
  assert.equal(b.readableLength, 0);
  let seen = 0;
  b.on("data", (bytes: Buffer) => {
    seen += bytes.length;
  });
  const before = taken;
  while (taken < before + 1_000_000) await turn();
  assert.ok(seen >= before);
  await closed(a, b);
});

test("half close: the other direction goes on when it was asked for", async () => {
  const [a, b] = socketPair();
  const stream = new FdDuplex(a, { allowHalfOpen: true });
  writeFd(b, Buffer.from("question"));
  shutdownSocket(b, "write");
  const chunks: Buffer[] = [];
  for await (const chunk of stream.iterator({ destroyOnReturn: false })) chunks.push(chunk as Buffer);
  assert.equal(Buffer.concat(chunks).toString(), "question");
  stream.end("answer");
  await once(stream, "close");
  const answer = Buffer.alloc(20);
  assert.equal(readFd(b, answer), 6);
  assert.equal(readFd(b, answer), 0);
  closeFd(b);
});

test("without allowHalfOpen a stream ends itself after the peer did", async () => {
  const [a, b] = socketPair();
  const stream = new FdDuplex(a);
  stream.resume();
  closeFd(b);
  await once(stream, "close");
  assert.equal(stream.errored, null);
});

test("a peer that is gone is EPIPE at the write and ECONNRESET at the read", async () => {
  const [a, b] = socketPair();
  const stream = new FdDuplex(a, { allowHalfOpen: true });
  closeFd(b);
  stream.write("x");
  const [error] = await once(stream, "error");
  assert.equal((error as NodeJS.ErrnoException).code, "EPIPE");
  const [c, d] = socketPair();
  const second = new FdDuplex(c);
  second.write("unread");
  await turn();
  closeFd(d);
  second.resume();
  const [reset] = await once(second, "error");
  assert.equal((reset as NodeJS.ErrnoException).code, "ECONNRESET");
});

test("destroy() in the middle of a waiting write rejects it and closes the descriptor", async () => {
  const before = openDescriptors();
  const [a, b] = socketPair();
  const stream = toByteStream(new FdDuplex(a));
  const writing = stream.write(new Uint8Array(5_000_000));
  await turn();
  stream.destroy();
  await assert.rejects(writing);
  closeFd(b);
  for (let i = 0; i < 5; i++) await turn();
  assertNoneOpenedSince(before);
});

test("each write of at most 16 KB arrives as one piece when there is room", async () => {
  const [a, b] = socketPair();
  const stream = new FdDuplex(a);
  stream.cork();
  for (let i = 0; i < 4; i++) stream.write(new Uint8Array(1000 + i));
  stream.uncork();
  const sizes: (number | "again")[] = [];
  // A stream socket gives one queued buffer at a time when asked for no more than it holds.
  for (let i = 0; i < 4; i++) sizes.push(readFd(b, new Uint8Array(1000 + i)));
  assert.deepEqual(sizes, [1000, 1001, 1002, 1003]);
  assert.equal(readFd(b, new Uint8Array(1)), "again");
  await closed(stream);
  closeFd(b);
});

/** A listening unix socket's descriptor, and a way to connect to it. */
async function listeningFd() {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "caisson-accept-"));
  const file = path.join(dir, "s");
  const server = net.createServer().listen(file);
  await once(server, "listening");
  // biome-ignore lint/suspicious/noExplicitAny: Node has no public way to the descriptor
  const fd = dupFd((server as any)._handle.fd);
  const moved = path.join(dir, "moved");
  fs.renameSync(file, moved); // close() unlinks the old name
  server.close();
  return {
    fd,
    connect: () => net.connect(moved).on("error", () => undefined),
    [Symbol.dispose]: () => fs.rmSync(dir, { recursive: true }),
  };
}

test("FdAcceptor hands out connections in the order of the callers, and waits for more", async () => {
  using listening = await listeningFd();
  const acceptor = new FdAcceptor(listening.fd);
  const signal = new AbortController().signal;
  const waiting = [acceptor.accept(signal), acceptor.accept(signal)];
  const sockets = [listening.connect(), listening.connect(), listening.connect()];
  const fds = await Promise.all(waiting);
  assert.equal(new Set(fds).size, 2);
  const third = await acceptor.accept(signal); // it waited in the backlog
  for (const fd of [...fds, third]) closeFd(fd);
  for (const socket of sockets) socket.destroy();
  acceptor.close();
});

test("FdAcceptor: an aborted wait takes no connection, and close() ends all waits", async () => {
  using listening = await listeningFd();
  const acceptor = new FdAcceptor(listening.fd);
  const abort = new AbortController();
  const given = acceptor.accept(abort.signal);
  abort.abort(new Error("too late"));
  await assert.rejects(given, /too late/);
  const socket = listening.connect();
  await once(socket, "connect");
  for (let i = 0; i < 5; i++) await turn();
  const fd = await acceptor.accept(new AbortController().signal);
  closeFd(fd);
  socket.destroy();
  const waiting = acceptor.accept(new AbortController().signal);
  acceptor.close();
  acceptor.close();
  const canceled = (error: unknown) => error instanceof SandboxError && error.code === "ERR_CANCELED";
  await assert.rejects(waiting, canceled);
  await assert.rejects(acceptor.accept(new AbortController().signal), canceled);
});
