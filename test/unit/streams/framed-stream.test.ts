import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import type { ByteStream } from "../../../src/base/byte-stream.ts";
import { SandboxError } from "../../../src/base/errors.ts";
import { encodeU32 } from "../../../src/streams/frame.ts";
import {
  encodeFrame,
  FrameDecoder,
  FramedStream,
  type FramedStreamOptions,
  FrameType,
  MAX_FRAME_BYTES,
  MAX_WINDOW_BYTES,
} from "../../../src/streams/index.ts";
import { type MemoryStream, memoryPair } from "./memory-pair.ts";

interface Pair {
  readonly host: FramedStream;
  readonly guest: FramedStream;
  readonly transports: [MemoryStream, MemoryStream];
}

/** Both sides as they are in real life: the host opens, the guest confirms. */
async function pair(
  options: { host?: FramedStreamOptions; guest?: FramedStreamOptions } = {},
): Promise<Pair> {
  const transports = memoryPair();
  const host = FramedStream.open(transports[0], Uint8Array.of(1, 2, 3), options.host);
  const { stream: guest, open } = await FramedStream.accept(transports[1]);
  assert.deepEqual([...open], [1, 2, 3]);
  guest.confirm(options.guest);
  await host.opened;
  return { host, guest, transports };
}

/** A peer made by hand: writes what it likes and records what it gets. */
function rawPeer(transport: ByteStream) {
  const frames: { type: number; payload: Uint8Array }[] = [];
  const ended = (async () => {
    const decoder = new FrameDecoder();
    for await (const chunk of transport.readable) {
      for (const frame of decoder.push(chunk))
        frames.push({ type: frame.type, payload: frame.payload.slice() });
    }
  })();
  const send = (type: FrameType, payload?: Uint8Array) => transport.write(encodeFrame(type, payload));
  return { frames, ended, send, types: () => frames.map((frame) => frame.type) };
}

async function collect(stream: FramedStream): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of stream.readable) chunks.push(chunk);
  return Buffer.concat(chunks);
}

/** Lets everything that can happen without us happen. */
async function settle(): Promise<void> {
  for (let i = 0; i < 50; i++) await turn();
}

const codeOf = (code: string, message?: RegExp) => (error: unknown) => {
  assert.ok(error instanceof SandboxError, String(error));
  assert.equal(error.code, code);
  if (message !== undefined) assert.match(error.message, message);
  return true;
};

test("a stream carries 64 MB byte-exact, in frames of at most 16,384 bytes, and both ends close cleanly", async () => {
  const { host, guest, transports } = await pair();
  const block = randomBytes(1_000_003);
  const sent = createHash("sha256");
  const received = createHash("sha256");
  const sending = (async () => {
    for (let i = 0; i < 64; i++) {
      const piece = block.subarray(i * 13);
      sent.update(piece);
      await guest.send(piece);
    }
    await guest.sendEof();
  })();
  for await (const chunk of host.readable) received.update(chunk);
  await sending;
  assert.equal(received.digest("hex"), sent.digest("hex"));
  assert.deepEqual(await Promise.all([host.closed, guest.closed]), [undefined, undefined]);
  assert.equal(transports[1].largestWrite, MAX_FRAME_BYTES);
  assert.deepEqual([transports[0].destroyed, transports[1].destroyed], [true, true]);
});

test("both directions of one stream carry bulk at the same time", async () => {
  const { host, guest } = await pair({ host: { keepSending: true }, guest: { keepSending: true } });
  const up = randomBytes(3_000_000);
  const down = randomBytes(2_500_000);
  const [, , atGuest, atHost] = await Promise.all([
    host.send(up).then(() => host.sendEof()),
    guest.send(down).then(() => guest.sendEof()),
    collect(guest),
    collect(host),
  ]);
  assert.ok(atGuest.equals(up));
  assert.ok(atHost.equals(down));
  assert.deepEqual(await Promise.all([host.closed, guest.closed]), [undefined, undefined]);
});

test("a stalled reader stops the sender after exactly one window, and memory stays within it", async () => {
  const { host, guest } = await pair();
  let written = 0;
  const sending = (async () => {
    const chunk = new Uint8Array(10_000);
    for (let i = 0; i < 100; i++) {
      await guest.send(chunk);
      written += chunk.length;
    }
    await guest.sendEof();
  })();
  await settle();
  assert.equal(written, Math.floor(MAX_WINDOW_BYTES / 10_000) * 10_000);
  assert.equal(guest.credit, 0);
  assert.ok(host.bufferBytes <= MAX_WINDOW_BYTES, `${host.bufferBytes}`);
  assert.equal((await collect(host)).length, 1_000_000);
  await sending;
});

test("a million bytes in one-byte frames use no more memory than their window", async () => {
  const [a, b] = memoryPair(10_000_000);
  const host = FramedStream.open(a, new Uint8Array(0));
  const guest = rawPeer(b);
  await guest.send(FrameType.Credit, encodeU32(0));
  const frame = encodeFrame(FrameType.Data, Uint8Array.of(7));
  const batch = Buffer.concat(Array.from({ length: 8192 }, () => frame));
  for (let sent = 0; sent < MAX_WINDOW_BYTES; sent += 8192) await b.write(batch);
  await settle();
  assert.equal(host.bufferBytes, MAX_WINDOW_BYTES);
  await guest.send(FrameType.Eof);
  assert.equal((await collect(host)).length, MAX_WINDOW_BYTES);
});

test("credit is granted again only when half of the window was taken", async () => {
  const [a, b] = memoryPair(1_000_000);
  const host = FramedStream.open(a, new Uint8Array(0));
  const guest = rawPeer(b);
  await guest.send(FrameType.Credit, encodeU32(0));
  const piece = new Uint8Array(16_000);
  for (let i = 0; i < 16; i++) await guest.send(FrameType.Data, piece);
  await settle();
  assert.deepEqual(guest.types(), [FrameType.Open, FrameType.Credit]);
  const reader = host.readable[Symbol.asyncIterator]();
  let taken = 0;
  while (taken < MAX_WINDOW_BYTES / 2) {
    assert.equal(guest.frames.length, 2, `after ${taken} bytes`);
    taken += (await reader.next()).value?.length ?? 0;
    await settle();
  }
  assert.deepEqual(guest.types(), [FrameType.Open, FrameType.Credit, FrameType.Credit]);
  assert.deepEqual(guest.frames[2]?.payload, encodeU32(taken));
  host.reset("");
});

test("a side that reads nothing grants nothing and still answers OPEN", async () => {
  const [a, b] = memoryPair();
  const raw = rawPeer(a);
  await raw.send(FrameType.Open);
  const { stream } = await FramedStream.accept(b);
  stream.confirm({ windowBytes: 0 });
  await settle();
  assert.deepEqual(raw.frames, [{ type: FrameType.Credit, payload: encodeU32(0) }]);
  stream.reset("");
});

test("sends keep the order of their calls, and EOF comes after them", async () => {
  const { host, guest } = await pair();
  const sends = Array.from({ length: 50 }, (_, i) => guest.send(new Uint8Array(20_000).fill(i)));
  const all = Promise.all([...sends, guest.sendEof(), guest.sendEof()]);
  const bytes = await collect(host);
  await all;
  assert.equal(bytes.length, 1_000_000);
  for (let i = 0; i < 50; i++)
    assert.ok(bytes.subarray(i * 20_000, (i + 1) * 20_000).every((byte) => byte === i));
  await assert.rejects(guest.send(Uint8Array.of(1)), codeOf("ERR_STATE"));
});

test("whenReady() resolves only when the peer has granted some credit", async () => {
  const [a, b] = memoryPair();
  const host = FramedStream.open(a, new Uint8Array(0));
  const peer = rawPeer(b);
  await peer.send(FrameType.Credit, encodeU32(0));
  await host.opened;
  let ready = false;
  const waiting = host.whenReady().then(() => {
    ready = true;
  });
  await settle();
  assert.ok(!ready && !host.ready);
  await peer.send(FrameType.Credit, encodeU32(5));
  await waiting;
  assert.equal(host.credit, 5);
  host.reset("");
});

/** Sends `bytes` as a pipe is sent: as much as goes at once, then the rest when more does. */
async function pour(stream: FramedStream, bytes: Uint8Array): Promise<void> {
  let at = 0;
  const fill = (payload: Uint8Array) => {
    const part = bytes.subarray(at, at + payload.length);
    payload.set(part);
    at += part.length;
    return part.length;
  };
  while (at < bytes.length) {
    await stream.whenReady();
    while (stream.sendNow(fill) > 0);
  }
}

test("sendNow() carries megabytes byte-exact, also where the transport keeps what it cannot take at once", async () => {
  const streams = await Promise.all([pair(), pair(), pair()]);
  const contents = streams.map(() => randomBytes(2_000_003));
  // Side by side: what one transport still keeps must not be written over by another stream.
  const received = await Promise.all(
    streams.map(async ({ host, guest, transports }, index) => {
      const pouring = pour(guest, contents[index] ?? Buffer.alloc(0)).then(() => guest.sendEof());
      const bytes = await collect(host);
      await pouring;
      assert.equal(transports[1].largestWrite, MAX_FRAME_BYTES);
      return bytes;
    }),
  );
  for (const [index, bytes] of received.entries())
    assert.ok(bytes.equals(contents[index] ?? Buffer.alloc(0)));
});

test("sendNow() sends nothing without credit, behind a send that waits, or for an empty source; then in order", async () => {
  const [a, b] = memoryPair();
  const stream = FramedStream.open(a, new Uint8Array(0));
  const peer = rawPeer(b);
  await peer.send(FrameType.Credit, encodeU32(0));
  await stream.opened;
  const sizes: number[] = [];
  const fill = (payload: Uint8Array) => {
    sizes.push(payload.length);
    payload[0] = 7;
    return 1;
  };
  assert.equal(stream.sendNow(fill), 0);
  await peer.send(FrameType.Credit, encodeU32(3));
  await stream.whenReady();
  assert.equal(
    stream.sendNow(() => 0),
    0,
  );
  assert.equal(stream.credit, 3);
  const waiting = stream.send(Uint8Array.of(1, 2, 3, 4));
  assert.equal(stream.sendNow(fill), 0);
  assert.deepEqual(sizes, []);
  await peer.send(FrameType.Credit, encodeU32(100));
  await waiting;
  await stream.whenReady();
  assert.equal(stream.sendNow(fill), 1);
  assert.deepEqual(sizes, [99]);
  await stream.sendEof();
  assert.throws(() => stream.sendNow(fill), codeOf("ERR_STATE"));
  await settle();
  const data = peer.frames.filter(({ type }) => type === FrameType.Data).map(({ payload }) => [...payload]);
  assert.deepEqual(data, [[1, 2, 3], [4], [7]]);
  stream.reset("");
});

test("takeNow gets the bytes while the reader waits; what it leaves comes to the reader, in order and once", async () => {
  const content = randomBytes(3_000_001);
  const got: Buffer[] = [];
  let offered = 0;
  const takeNow = (bytes: Uint8Array) => {
    offered += 1;
    const count = offered % 3 === 0 ? 0 : offered % 3 === 1 ? bytes.length : Math.min(bytes.length, 1000);
    got.push(Buffer.from(bytes.subarray(0, count)));
    return count;
  };
  const { host, guest } = await pair({ guest: { takeNow } });
  const sending = host.send(content).then(() => host.sendEof());
  let readerHad = 0;
  for await (const chunk of guest.readable) {
    const before = offered;
    got.push(Buffer.from(chunk));
    readerHad += chunk.length;
    await turn();
    assert.equal(offered, before, "takeNow was asked while the reader was busy");
  }
  await sending;
  assert.ok(Buffer.concat(got).equals(content));
  assert.ok(readerHad > 0 && readerHad < content.length, `${readerHad} bytes came to the reader`);
  assert.deepEqual(await Promise.all([host.closed, guest.closed]), [undefined, undefined]);
});

test("data without credit is not offered to takeNow", async () => {
  const [a, b] = memoryPair();
  const raw = rawPeer(a);
  await raw.send(FrameType.Open);
  const { stream } = await FramedStream.accept(b);
  let offered = 0;
  const takeNow = (bytes: Uint8Array) => {
    offered += bytes.length;
    return bytes.length;
  };
  stream.confirm({ windowBytes: 10, takeNow });
  const reading = assert.rejects(collect(stream), codeOf("ERR_PROTOCOL"));
  await settle();
  await raw.send(FrameType.Data, new Uint8Array(8)); // granted anew at once: it was taken
  await raw.send(FrameType.Data, new Uint8Array(10));
  await raw.send(FrameType.Data, new Uint8Array(11));
  await reading;
  assert.equal(offered, 18);
});

test("stdin: the host's EOF ends the guest's reading, and the guest's answer closes both", async () => {
  const { host, guest } = await pair({ host: { windowBytes: 0 } });
  await host.send(Buffer.from("to stdin"));
  await host.sendEof();
  assert.equal((await collect(guest)).toString(), "to stdin");
  assert.deepEqual(await Promise.all([host.closed, guest.closed]), [undefined, undefined]);
});

test("stdin: the guest's EOF makes a waiting send fail and closes both", async () => {
  const { host, guest } = await pair({ guest: { windowBytes: 1000 } });
  const sending = host.send(new Uint8Array(5000));
  await settle();
  await guest.sendEof();
  await assert.rejects(sending, codeOf("ERR_UNAVAILABLE", /peer has closed/));
  const reading = collect(guest);
  assert.equal((await reading).length, 1000);
  assert.deepEqual(await Promise.all([host.closed, guest.closed]), [undefined, undefined]);
});

test("console: sizes go one way, output and the exit status the other, after the host's EOF too", async () => {
  const sizes: number[][] = [];
  const exits: number[] = [];
  const { host, guest } = await pair({
    host: { onExit: (status) => exits.push(status) },
    guest: { keepSending: true, onResize: (columns, rows) => sizes.push([columns, rows]) },
  });
  await host.sendResize(211, 65_535);
  await host.sendEof();
  assert.equal((await collect(guest)).length, 0);
  assert.deepEqual(sizes, [[211, 65_535]]);
  await guest.send(Buffer.from("bye\n"));
  await guest.sendExit(137);
  await guest.sendEof();
  assert.equal((await collect(host)).toString(), "bye\n");
  assert.deepEqual(exits, [137]);
  assert.deepEqual(await Promise.all([host.closed, guest.closed]), [undefined, undefined]);
});

test("the acceptor's reset reaches the opener as the reason why it was refused", async () => {
  const [a, b] = memoryPair();
  const host = FramedStream.open(a, new Uint8Array(0));
  const { stream } = await FramedStream.accept(b);
  stream.reset("no container \u0007nginx");
  await assert.rejects(host.opened, codeOf("ERR_STATE", /reset the stream: no container \ufffdnginx$/));
  await assert.rejects(collect(host), codeOf("ERR_STATE"));
  assert.equal(a.destroyed && b.destroyed, true);
});

test("reset() voids unread data at both ends and rejects everything that waits", async () => {
  const { host, guest } = await pair();
  await guest.send(new Uint8Array(1000));
  await settle();
  const waiting = guest.send(new Uint8Array(MAX_WINDOW_BYTES));
  await settle();
  host.reset("enough");
  host.reset("again");
  await assert.rejects(waiting, codeOf("ERR_UNAVAILABLE", /enough/));
  await assert.rejects(collect(host), codeOf("ERR_CANCELED", /^enough$/));
  await assert.rejects(guest.send(Uint8Array.of(1)), codeOf("ERR_UNAVAILABLE"));
  await assert.rejects(guest.whenReady(), codeOf("ERR_UNAVAILABLE"));
  assert.equal((await host.closed)?.code, "ERR_CANCELED");
  assert.equal((await guest.closed)?.code, "ERR_UNAVAILABLE");
  assert.equal(host.bufferBytes, 0);
});

test("a reader that stops early resets the stream", async () => {
  const { host, guest } = await pair();
  await guest.send(new Uint8Array(10));
  for await (const _ of host.readable) break;
  assert.equal((await guest.closed)?.code, "ERR_UNAVAILABLE");
});

test("a connection that ends in mid-stream gives what had arrived and then an error", async () => {
  const { host, guest, transports } = await pair();
  await guest.send(Buffer.from("half a li"));
  await settle();
  transports[1].destroy();
  const seen: string[] = [];
  await assert.rejects(
    async () => {
      for await (const chunk of host.readable) seen.push(Buffer.from(chunk).toString());
    },
    codeOf("ERR_UNAVAILABLE", /mid-stream/),
  );
  assert.deepEqual(seen, ["half a li"]);
});

test("a connection that breaks with an error keeps it as the cause", async () => {
  const { host, transports } = await pair();
  const broken = new Error("ECONNRESET");
  transports[0].destroy(broken);
  await assert.rejects(collect(host), (error: unknown) => {
    assert.equal((error as Error).cause, broken);
    return codeOf("ERR_UNAVAILABLE")(error);
  });
});

test("accept() fails when the connection ends before OPEN", async () => {
  const [a, b] = memoryPair();
  const accepting = FramedStream.accept(b);
  a.destroy();
  await assert.rejects(accepting, codeOf("ERR_UNAVAILABLE"));
});

test("frames that follow OPEN at once wait until the acceptor has answered", async () => {
  const [a, b] = memoryPair();
  const sizes: number[] = [];
  const raw = rawPeer(a);
  await raw.send(FrameType.Open);
  await raw.send(FrameType.Credit, encodeU32(10));
  await raw.send(FrameType.Resize, Uint8Array.of(0, 80, 0, 24));
  const { stream } = await FramedStream.accept(b);
  await settle();
  assert.equal(stream.credit, 0);
  stream.confirm({ onResize: (columns) => sizes.push(columns) });
  await stream.whenReady();
  assert.equal(stream.credit, 10);
  await settle();
  assert.deepEqual(sizes, [80]);
  assert.throws(() => stream.confirm(), codeOf("ERR_STATE"));
  stream.reset("");
});

test("a stream has one reader", async () => {
  const { host } = await pair();
  void host.readable[Symbol.asyncIterator]();
  assert.throws(() => host.readable[Symbol.asyncIterator](), codeOf("ERR_STATE"));
  host.reset("");
});

/** What a hostile guest can send after its answer to OPEN. */
const guestViolations: Record<string, Uint8Array[]> = {
  "data without credit": Array.from({ length: 17 }, () =>
    encodeFrame(FrameType.Data, new Uint8Array(16_000)),
  ),
  "data after EOF": [encodeFrame(FrameType.Eof), encodeFrame(FrameType.Data, Uint8Array.of(1))],
  "a second EOF": [encodeFrame(FrameType.Eof), encodeFrame(FrameType.Eof)],
  "more credit than a window": [encodeFrame(FrameType.Credit, encodeU32(MAX_WINDOW_BYTES + 1))],
  "credit that adds up to more than a window": [
    encodeFrame(FrameType.Credit, encodeU32(MAX_WINDOW_BYTES)),
    encodeFrame(FrameType.Credit, encodeU32(1)),
  ],
  "OPEN from the guest": [encodeFrame(FrameType.Open)],
  "RESIZE from the guest": [encodeFrame(FrameType.Resize, encodeU32(0))],
  "EXIT on a stdio stream": [encodeFrame(FrameType.Exit, encodeU32(0))],
  "an unknown type": [Uint8Array.of(9, 0, 0, 0, 0, 0, 0, 0)],
  "an oversize frame": [Uint8Array.of(2, 0, 0, 0, 0, 1, 0, 0)],
};
for (const [name, frames] of Object.entries(guestViolations)) {
  test(`the host ends the stream with RESET at ${name}`, async () => {
    const [a, b] = memoryPair(1_000_000);
    const host = FramedStream.open(a, new Uint8Array(0), { keepSending: true });
    const guest = rawPeer(b);
    await guest.send(FrameType.Credit, encodeU32(0));
    await host.opened;
    for (const frame of frames) await b.write(frame).catch(() => undefined);
    const error = await host.closed;
    assert.equal(error?.code, "ERR_PROTOCOL", error?.message);
    await guest.ended;
    assert.equal(guest.types().at(-1), FrameType.Reset);
    assert.equal(a.destroyed, true);
    assert.equal(host.bufferBytes, 0);
    await assert.rejects(host.send(Uint8Array.of(1)), codeOf("ERR_PROTOCOL"));
  });
}

for (const type of [FrameType.Data, FrameType.Eof, FrameType.Open] as const) {
  test(`the opener refuses frame type ${type} as the answer to OPEN`, async () => {
    const [a, b] = memoryPair();
    const host = FramedStream.open(a, new Uint8Array(0));
    await b.write(encodeFrame(type, type === FrameType.Data ? Uint8Array.of(1) : undefined));
    await assert.rejects(host.opened, codeOf("ERR_PROTOCOL"));
  });
}

test("the acceptor refuses a stream that does not begin with OPEN, and a second OPEN", async () => {
  const [a, b] = memoryPair();
  await a.write(encodeFrame(FrameType.Credit, encodeU32(1)));
  await assert.rejects(FramedStream.accept(b), codeOf("ERR_PROTOCOL", /begin with OPEN/));
  const [c, d] = memoryPair();
  await c.write(encodeFrame(FrameType.Open));
  await c.write(encodeFrame(FrameType.Open));
  const { stream } = await FramedStream.accept(d);
  stream.confirm();
  assert.equal((await stream.closed)?.code, "ERR_PROTOCOL");
});

test("random frames from the guest end a stream by its own rules and never hang or throw past it", async () => {
  for (let round = 0; round < 200; round++) {
    const [a, b] = memoryPair(1_000_000);
    const host = FramedStream.open(a, new Uint8Array(0));
    const reading = collect(host).catch((error: unknown) => error);
    await b.write(encodeFrame(FrameType.Credit, encodeU32(100)));
    for (let i = 0; i < 20; i++) {
      const type = ([2, 2, 2, 3, 4, 5, 6, 7] as const)[randomBytes(1).readUInt8() % 8] as FrameType;
      const payload =
        type === FrameType.Data
          ? randomBytes(1 + (randomBytes(2).readUInt16LE() % 16_376))
          : type === FrameType.Eof
            ? new Uint8Array(0)
            : randomBytes(4);
      await b.write(encodeFrame(type, payload)).catch(() => undefined);
    }
    b.destroy();
    const error = await host.closed;
    assert.ok(
      error === undefined || ["ERR_PROTOCOL", "ERR_UNAVAILABLE"].includes(error.code),
      error?.message,
    );
    await reading;
    assert.equal(a.destroyed, true);
  }
});
