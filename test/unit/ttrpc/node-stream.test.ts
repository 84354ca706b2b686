import assert from "node:assert/strict";
import fs from "node:fs";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { after, before, describe, it } from "node:test";
import type { ByteStream } from "../../../src/base/byte-stream.ts";
import { serveConnection, TtrpcClient } from "../../../src/ttrpc/index.ts";
import { byteStreamFromSocket } from "../../../src/ttrpc/node-stream.ts";
import { deferred, rawService } from "./raw-peer.ts";

let directory: string;
let listener: net.Server;
let socketPath: string;
let accept: (socket: net.Socket) => void = () => undefined;

before(async () => {
  directory = fs.mkdtempSync(path.join(os.tmpdir(), "ttrpc-"));
  socketPath = path.join(directory, "s");
  listener = net.createServer((socket) => accept(socket));
  await new Promise<void>((resolve) => listener.listen(socketPath, resolve));
});
after(async () => {
  await new Promise((resolve) => listener.close(resolve));
  fs.rmSync(directory, { recursive: true });
});

/** Both ends of a fresh connection. */
async function connect(): Promise<[net.Socket, net.Socket]> {
  const accepted = new Promise<net.Socket>((resolve) => {
    accept = resolve;
  });
  const socket = net.connect(socketPath);
  return [socket, await accepted];
}

async function readAll(stream: ByteStream): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of stream.readable) chunks.push(chunk);
  return Buffer.concat(chunks);
}

describe("byteStreamFromSocket", () => {
  it("carries megabytes exactly, with the reader pausing", async () => {
    const [a, b] = (await connect()).map(byteStreamFromSocket) as [ByteStream, ByteStream];
    const sent = Buffer.alloc(5_000_000, Buffer.from("0123456789abc"));
    const writing = (async () => {
      for (let at = 0; at < sent.length; at += 100_000) await a.write(sent.subarray(at, at + 100_000));
      a.end();
    })();
    await new Promise((resolve) => setTimeout(resolve, 20));
    const received = await readAll(b);
    await writing;
    assert.ok(received.equals(sent));
    a.destroy();
    b.destroy();
  });

  it("holds a writer back while nobody reads", async () => {
    const [a, b] = (await connect()).map(byteStreamFromSocket) as [ByteStream, ByteStream];
    let written = 0;
    const writing = (async () => {
      for (; written < 200; written++) await a.write(new Uint8Array(100_000));
    })().catch(() => undefined);
    await new Promise((resolve) => setTimeout(resolve, 100));
    assert.ok(written < 50, `${written} writes of 100 kB were taken`);
    a.destroy();
    b.destroy();
    await writing;
  });

  it("can still write after the peer closed its sending side", async () => {
    const [near, far] = await connect();
    const [a, b] = [byteStreamFromSocket(near), byteStreamFromSocket(far)];
    a.end();
    assert.equal((await readAll(b)).length, 0);
    await b.write(Buffer.from("late"));
    b.end();
    assert.equal((await readAll(a)).toString(), "late");
    a.destroy();
    b.destroy();
  });

  it("throws the socket's error as ERR_UNAVAILABLE and rejects writes after it", async () => {
    const [near, far] = await connect();
    const a = byteStreamFromSocket(near);
    const reading = assert.rejects(readAll(a), { code: "ERR_UNAVAILABLE" });
    near.destroy(new Error("cable cut"));
    await reading;
    await assert.rejects(a.write(Uint8Array.of(1)), { code: "ERR_UNAVAILABLE" });
    far.destroy();
  });

  it("tells a socket that was closed on this side from a peer's half close", async () => {
    const [near, far] = await connect();
    const a = byteStreamFromSocket(near);
    const reading = assert.rejects(readAll(a), { code: "ERR_UNAVAILABLE" });
    near.destroy();
    await reading;
    await assert.rejects(readAll(byteStreamFromSocket(near)), { code: "ERR_UNAVAILABLE" });
    far.destroy();
  });

  it("reports an error that came before anybody read", async () => {
    const socket = net.connect(path.join(directory, "nobody"));
    const stream = byteStreamFromSocket(socket);
    await new Promise((resolve) => socket.once("close", resolve));
    await assert.rejects(readAll(stream), (error: Error & { code?: string }) => {
      return error.code === "ERR_UNAVAILABLE" && /ENOENT/.test((error.cause as Error).message);
    });
    stream.destroy();
  });
});

describe("ttrpc over a unix socket", () => {
  it("answers a client that closed its sending side, and calls beside a slow one", async () => {
    const [near, far] = await connect();
    const gate = deferred<Uint8Array>();
    const connection = serveConnection(byteStreamFromSocket(far), [
      rawService("S", { Slow: () => gate.promise, Echo: async (payload) => payload }),
    ]);
    const stream = byteStreamFromSocket(near);
    const client = new TtrpcClient(stream);
    const slow = client.call("S", "Slow", new Uint8Array(0));
    const big = new Uint8Array(3_000_000).fill(7);
    const echoed = await client.call("S", "Echo", big);
    assert.ok(Buffer.from(echoed).equals(big));
    stream.end();
    setTimeout(() => gate.resolve(Uint8Array.of(1)), 10);
    assert.deepEqual([...(await slow)], [1]);
    await connection.closed;
    assert.equal((await client.closed).code, "ERR_UNAVAILABLE");
  });

  it("fails pending calls when the server process goes", async () => {
    const [near, far] = await connect();
    const client = new TtrpcClient(byteStreamFromSocket(near));
    const call = client.call("S", "M", new Uint8Array(0));
    far.once("data", () => far.destroy());
    await assert.rejects(call, { code: "ERR_UNAVAILABLE" });
  });
});
