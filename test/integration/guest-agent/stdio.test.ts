/** Stdio streams of real containers over port 1025 (docs/protocol.md, "Stream frames"). Needs root. */
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { create, toBinary } from "@bufbuild/protobuf";
import { withDeadline } from "../../../src/base/deadline.ts";
import { StreamKind, StreamOpenSchema } from "../../../src/gen/caisson/agent/v1/agent_pb.ts";
import { encodeFrame, type Frame, FrameDecoder, FrameType } from "../../../src/streams/index.ts";
import { useWorld } from "../guest-agent-container/world.ts";

const world = useWorld();
const MIB = 1 << 20;
const LIMIT_MS = 10_000;

/** A peer that sends exactly the frames that a test wants. */
class RawStream {
  readonly #socket: Socket;
  readonly frames: { type: number; payload: Buffer }[] = [];
  #wake: () => void = () => undefined;
  closed = false;

  constructor(socket: Socket) {
    this.#socket = socket;
    const decoder = new FrameDecoder();
    socket.on("data", (chunk: Buffer) => {
      for (const { type, payload } of decoder.push(chunk) as Iterable<Frame>) {
        this.frames.push({ type, payload: Buffer.from(payload) });
      }
      this.#wake();
    });
    socket.on("error", () => undefined);
    socket.on("close", () => {
      this.closed = true;
      this.#wake();
    });
  }

  static async open(containerId: string, kind: StreamKind, execId = "", received = 0): Promise<RawStream> {
    const stream = await RawStream.dial();
    const open = toBinary(
      StreamOpenSchema,
      create(StreamOpenSchema, { containerId, execId, kind, received: BigInt(received) }),
    );
    stream.send(FrameType.Open, open);
    return stream;
  }

  static async dial(): Promise<RawStream> {
    const socket = connect(join(world().agent.directory, "1025"));
    await once(socket, "connect");
    return new RawStream(socket);
  }

  send(type: FrameType, payload: Uint8Array = new Uint8Array(0)): void {
    this.#socket.write(encodeFrame(type, payload));
  }

  sendRaw(bytes: Uint8Array): void {
    this.#socket.write(bytes);
  }

  grant(bytes: number): void {
    const payload = Buffer.alloc(4);
    payload.writeUInt32BE(bytes);
    this.send(FrameType.Credit, payload);
  }

  get data(): Buffer {
    return Buffer.concat(
      this.frames.filter(({ type }) => type === FrameType.Data).map(({ payload }) => payload),
    );
  }

  get ended(): boolean {
    return this.frames.some(({ type }) => type === FrameType.Eof);
  }

  reset(): string | undefined {
    return this.frames.find(({ type }) => type === FrameType.Reset)?.payload.toString();
  }

  until(condition: () => boolean, what: string): Promise<void> {
    const wait = async () => {
      while (!condition()) {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    };
    return withDeadline(wait(), LIMIT_MS, what);
  }

  destroy(): void {
    this.#socket.destroy();
  }
}

/** The reason of the RESET that answers the stream. */
async function refusal(stream: RawStream): Promise<string> {
  await stream.until(() => stream.reset() !== undefined || stream.closed, "the refusal");
  stream.destroy();
  return stream.reset() ?? "closed without a reason";
}

/** Resolves when nothing changes any more: the agent has no stream and its former number of descriptors. */
async function settled(descriptors: number): Promise<void> {
  const agent = world().agent;
  for (let attempt = 0; ; attempt++) {
    const { streamCount } = await agent.calls.guestInfo({});
    if (streamCount === 0 && agent.openDescriptors <= descriptors) return;
    assert.ok(
      attempt < 500,
      `${streamCount} streams, ${agent.openDescriptors} descriptors, not ${descriptors}`,
    );
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

test("100 MiB go through cat byte for byte, and the agent's memory stays small", async () => {
  const id = await world().create(["cat"], undefined, { stdin: true });
  await world().start(id);
  const stdin = await world().open(id, "", StreamKind.STDIN);
  const stdout = await world().open(id, "", StreamKind.STDOUT);
  const sent = createHash("sha256");
  const received = createHash("sha256");
  const write = async () => {
    const block = randomBytes(MIB);
    for (let i = 0; i < 100; i++) {
      block.writeUInt32LE(i);
      sent.update(block);
      await stdin.send(block);
    }
    await stdin.sendEof();
  };
  let length = 0;
  const read = async () => {
    for await (const chunk of stdout.readable) {
      received.update(chunk);
      length += chunk.length;
    }
  };
  await Promise.all([write(), read()]);
  assert.equal(length, 100 * MIB);
  assert.equal(received.digest("hex"), sent.digest("hex"));
  assert.equal(await world().exit(id), 0);
  const { agentRssBytes } = await world().agent.calls.guestInfo({});
  assert.ok(agentRssBytes < 12n << 20n, `${agentRssBytes} bytes`);
  await world().delete(id);
});

test("a reader that stalls holds up neither kill, exit and delete nor other streams", async () => {
  const stalled = await world().create(["sh", "-c", "yes"]);
  await world().start(stalled);
  const stdout = await RawStream.open(stalled, StreamKind.STDOUT);
  stdout.grant(100_000);
  await stdout.until(() => stdout.data.length === 100_000, "what was granted");
  const { stdout: other } = await world().sh("echo works");
  assert.equal(other, "works\n");
  await world().kill(stalled, 9);
  assert.equal(await world().exit(stalled), 137);
  assert.equal(stdout.data.length, 100_000);
  await world().delete(stalled);
  assert.match(await refusal(stdout), /the process was deleted/);
});

test("output that nobody read is there after the exit, to its end", async () => {
  const id = await world().create(["sh", "-c", "echo out; echo err >&2; exit 3"]);
  await world().start(id);
  assert.equal(await world().exit(id), 3);
  assert.equal(await world().readAll(id, "", StreamKind.STDOUT), "out\n");
  assert.equal(await world().readAll(id, "", StreamKind.STDERR), "err\n");
  // Opened once more, there is only the end.
  await assert.rejects(world().readAll(id, "", StreamKind.STDOUT), /from byte 0 on is not there/);
  const end = await RawStream.open(id, StreamKind.STDOUT, "", 4);
  end.grant(1);
  await end.until(() => end.ended, "the end");
  assert.equal(end.data.length, 0);
  end.destroy();
  await world().delete(id);
});

test("a broken stream can be opened again and nothing is lost or doubled", async () => {
  const lines = 40_000;
  const id = await world().create(["sh", "-c", `seq 1 ${lines}`]);
  await world().start(id);
  const parts: Buffer[] = [];
  let received = 0;
  // More than a frame, less than a frame, one byte; all of the rest.
  for (const credit of [50_000, 100, 1, 16_376, 33_333, 262_144]) {
    const stream = await RawStream.open(id, StreamKind.STDOUT, "", received);
    stream.grant(credit);
    await stream.until(() => stream.data.length === credit || stream.ended, "what was granted");
    parts.push(stream.data);
    received += stream.data.length;
    stream.destroy();
  }
  const expected = Array.from({ length: lines }, (_, i) => `${i + 1}\n`).join("");
  assert.equal(Buffer.concat(parts).toString(), expected);
  await world().delete(id);
});

test("stdin is for one stream at a time; an output goes to the newest", async () => {
  const id = await world().create(["sleep", "1000"], undefined, { stdin: true });
  await world().start(id);
  const stdin = await RawStream.open(id, StreamKind.STDIN);
  await stdin.until(() => stdin.frames.length > 0, "the answer");
  assert.match(await refusal(await RawStream.open(id, StreamKind.STDIN)), /attached already/);
  const first = await RawStream.open(id, StreamKind.STDOUT);
  await first.until(() => first.frames.length > 0, "the answer");
  const second = await RawStream.open(id, StreamKind.STDOUT);
  await second.until(() => second.frames.length > 0, "the answer");
  assert.match(await refusal(first), /opened again/);
  assert.equal(second.reset(), undefined);
  for (const stream of [stdin, second]) stream.destroy();
  await world().delete(id);
});

test("an output is sent again from any byte that was not acknowledged", async () => {
  const id = await world().create(["sh", "-c", "seq 1 100000"]);
  await world().start(id);
  const expected = Buffer.from(Array.from({ length: 100_000 }, (_, i) => `${i + 1}\n`).join(""));
  const first = await RawStream.open(id, StreamKind.STDOUT);
  first.grant(100_000);
  await first.until(() => first.data.length === 100_000, "what was granted");
  // The stream before stands still: nobody ended it.
  for (const received of [12_345, 12_345, 77_777, 99_999]) {
    const again = await RawStream.open(id, StreamKind.STDOUT, "", received);
    again.grant(50_000);
    await again.until(() => again.data.length === 50_000, "what was granted");
    assert.ok(again.data.equals(expected.subarray(received, received + 50_000)), `from ${received}`);
  }
  // The host has had 99,999: what was before is gone, what comes after 149,999 was never sent.
  assert.match(await refusal(await RawStream.open(id, StreamKind.STDOUT, "", 99_998)), /is not there/);
  assert.match(await refusal(await RawStream.open(id, StreamKind.STDOUT, "", 150_000)), /is not there/);
  const last = await RawStream.open(id, StreamKind.STDOUT, "", 100_000);
  const half = 131_072;
  last.grant(2 * half);
  for (let granted = 2 * half; !last.ended; granted += half) {
    await last.until(() => last.ended || last.data.length >= granted - half, "half of the window");
    if (!last.ended) last.grant(half);
  }
  assert.ok(last.data.equals(expected.subarray(100_000)));
  // Its end was lost on the way.
  const end = await RawStream.open(id, StreamKind.STDOUT, "", expected.length - 1);
  end.grant(1_000);
  await end.until(() => end.ended, "the end again");
  assert.equal(end.data.toString(), "\n");
  end.destroy();
  await world().delete(id);
});

test("a stream that does not exist is refused with the reason", async () => {
  const id = await world().sleeper();
  assert.match(
    await refusal(await RawStream.open("nobody", StreamKind.STDOUT)),
    /there is no container nobody/,
  );
  assert.match(
    await refusal(await RawStream.open(id, StreamKind.STDOUT, "e9")),
    /no process e9 of container/,
  );
  assert.match(await refusal(await RawStream.open(id, StreamKind.STDIN)), /has no stream of kind 1/);
  assert.match(await refusal(await RawStream.open(id, StreamKind.UNSPECIFIED)), /has no stream of kind 0/);
  await world().delete(id);
  assert.match(await refusal(await RawStream.open(id, StreamKind.STDOUT)), /there is no container/);
});

test("EOF waits for every writer, the exit event for none", async () => {
  const id = await world().sleeper();
  const execId = await world().exec(id, ["sh", "-c", "(sleep 0.5; echo late) & echo early"]);
  const all = world().readAll(id, execId, StreamKind.STDOUT);
  assert.equal(await world().exit(id, execId), 0);
  assert.equal(await Promise.race([all, new Promise((resolve) => setTimeout(resolve, 50, "open"))]), "open");
  assert.equal(await all, "early\nlate\n");
  await world().delete(id);
});

test("EOF on stdin closes the pipe after what was sent; a broken stream leaves it open", async () => {
  const id = await world().create(["sh", "-c", "wc -c"], undefined, { stdin: true });
  await world().start(id);
  const broken = await RawStream.open(id, StreamKind.STDIN);
  await broken.until(() => broken.frames.length > 0, "credit");
  broken.send(FrameType.Data, Buffer.alloc(1000));
  await new Promise((resolve) => setTimeout(resolve, 50));
  broken.destroy();
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert.equal(world().hasExited(id), false);
  const again = await world().open(id, "", StreamKind.STDIN);
  await again.send(Buffer.alloc(500_000));
  await again.sendEof();
  assert.equal(await world().readAll(id, "", StreamKind.STDOUT), "501000\n");
  await world().delete(id);
});

test("a process that does not read its stdin fills the window and no more", async () => {
  const id = await world().create(["sleep", "1000"], undefined, { stdin: true });
  await world().start(id);
  const stdin = await world().open(id, "", StreamKind.STDIN);
  let sent = 0;
  const pump = (async () => {
    for (;;) {
      await stdin.send(Buffer.alloc(10_000));
      sent += 10_000;
    }
  })();
  pump.catch(() => undefined);
  let before = -1;
  while (sent !== before) {
    before = sent;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  // One window: what the pipe took (64 KiB) is less than the half that would be granted again.
  assert.ok(sent >= 250_000 && sent <= 262_144, `${sent} bytes`);
  await world().kill(id, 9);
  await world().exit(id);
  await world().delete(id);
  await assert.rejects(pump);
});

test("stdin of a process that closed it is taken and dropped", async () => {
  const id = await world().create(["sh", "-c", "exec <&-; sleep 0.3; echo done"], undefined, { stdin: true });
  await world().start(id);
  const stdin = await world().open(id, "", StreamKind.STDIN);
  for (let i = 0; i < 50; i++) await stdin.send(Buffer.alloc(20_000));
  await stdin.sendEof();
  assert.equal(await world().readAll(id, "", StreamKind.STDOUT), "done\n");
  await world().delete(id);
});

const header = (type: number, length: number) => {
  const bytes = Buffer.alloc(8);
  bytes.writeUInt8(type, 0);
  bytes.writeUInt32BE(length, 4);
  return bytes;
};

for (const [name, violate] of [
  ["an unknown frame type", (stream: RawStream) => stream.sendRaw(header(99, 0))],
  ["a frame beyond the limit", (stream: RawStream) => stream.sendRaw(header(FrameType.Data, 16_377))],
  ["DATA without credit", (stream: RawStream) => stream.send(FrameType.Data, Buffer.alloc(1))],
  ["a second OPEN", (stream: RawStream) => stream.send(FrameType.Open)],
  ["a RESIZE", (stream: RawStream) => stream.send(FrameType.Resize, Buffer.alloc(4))],
] as const) {
  test(`${name} ends that stream with RESET and nothing else`, async () => {
    const id = await world().create(["sh", "-c", "sleep 0.2; echo fine"]);
    await world().start(id);
    const stream = await RawStream.open(id, StreamKind.STDERR);
    await stream.until(() => stream.frames.length > 0, "the answer");
    violate(stream);
    assert.notEqual(await refusal(stream), "closed without a reason");
    assert.equal(await world().readAll(id, "", StreamKind.STDOUT), "fine\n");
    assert.equal(await world().exit(id), 0);
    await world().delete(id);
  });
}

test("a stream that waits thousands of times holds no more memory for it", async () => {
  const id = await world().create(["cat"], undefined, { stdin: true });
  await world().start(id);
  const stdin = await world().open(id, "", StreamKind.STDIN);
  const stdout = (await world().open(id, "", StreamKind.STDOUT)).readable[Symbol.asyncIterator]();
  const echo = async (times: number) => {
    for (let i = 0; i < times; i++) {
      await stdin.send(Buffer.from("x"));
      await stdout.next();
    }
    return Number((await world().agent.calls.guestInfo({})).agentRssBytes);
  };
  const before = await echo(1_000);
  const grown = (await echo(6_000)) - before;
  assert.ok(grown < 300_000, `${grown} bytes`);
  await stdin.sendEof();
  await world().exit(id);
  await world().delete(id);
});

test("streams that end in every way leave no descriptor and no stream", async () => {
  const { agent } = world();
  const id = await world().sleeper();
  await settled(Number.POSITIVE_INFINITY);
  const before = agent.openDescriptors;
  for (let i = 0; i < 20; i++) {
    const half = await RawStream.dial();
    half.sendRaw(header(FrameType.Open, 20).subarray(0, i % 8));
    half.destroy();
    const open = await RawStream.open(id, i % 2 === 0 ? StreamKind.STDOUT : StreamKind.STDERR);
    if (i % 3 === 0) open.send(FrameType.Reset);
    open.destroy();
  }
  await settled(before);
  await world().delete(id);
});
