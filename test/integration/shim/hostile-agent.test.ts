/**
 * A guest that was taken over: the real shim with a real machine, whose agent is the test. Whatever it says, the shim
 * neither ends nor hangs nor grows, says what is wrong, and leaves nothing behind. Needs root.
 */
import assert from "node:assert/strict";
import { constants, openSync } from "node:fs";
import net from "node:net";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { create } from "@bufbuild/protobuf";
import { Status } from "../../../src/base/errors.ts";
import { type Event, EventSchema } from "../../../src/gen/caisson/agent/v1/agent_pb.ts";
import { Status as TaskStatus } from "../../../src/gen/containerd/v1/types/task_pb.ts";
import { FramedStream } from "../../../src/streams/index.ts";
import { encodeResponseFrame } from "../../../src/ttrpc/envelope.ts";
import { FrameType, HEADER_LENGTH, writeHeader } from "../../../src/ttrpc/frame.ts";
import { statusOf, TtrpcError } from "../../../src/ttrpc/index.ts";
import { byteStreamFromSocket } from "../../../src/ttrpc/node-stream.ts";
import { Random } from "../../fuzz/random.ts";
import { openDescriptors } from "../../harness/leak-ledger.ts";
import { type HostileTrial, processSpec, startTrials, type Trials } from "./hostile-trial.ts";

/** What a shim may grow by in KiB of resident memory, whatever its guest sends: its buffers have limits of some MiB. */
const GROWTH_KIB = 96 << 10;
/** Descriptors that may come and go with what a call is doing. */
const SPARE_DESCRIPTORS = 8;

const known = new Set<number>(Object.values(Status));
const random = new Random(1);

let trials: Trials;
before(async () => {
  trials = await startTrials();
});
after(() => trials[Symbol.asyncDispose]());

/** Rejects as a call should: with a status that clients know, and with a reason. */
async function refused(call: Promise<unknown>, reason: RegExp): Promise<void> {
  await assert.rejects(call, (error: unknown) => {
    assert.ok(error instanceof TtrpcError, String(error));
    const { code, message } = statusOf(error);
    assert.ok(known.has(error.remoteCode) && code !== Status.Unknown, `status ${error.remoteCode}`);
    assert.match(message, reason);
    return true;
  });
}

describe("an agent that misbehaves while the machine boots", { concurrency: 2 }, () => {
  const whenItGreets = (
    name: string,
    misbehave: (trial: HostileTrial) => Promise<unknown>,
    reason: RegExp,
    env = {},
  ) =>
    test(name, async () => {
      await using trial = await trials.start({ env });
      const misbehaved = misbehave(trial).catch(() => undefined);
      await refused(trial.create(), reason);
      await misbehaved;
      await trial.assertAlive();
    });

  whenItGreets(
    "random bytes",
    async ({ peer }) => {
      const socket = await peer.dialHost();
      socket.end(random.bytes(100_000));
    },
    /closed its connection before its hello/,
  );

  whenItGreets(
    "it hangs up",
    async ({ peer }) => {
      (await peer.dialHost()).destroy();
    },
    /closed its connection before its hello/,
  );

  whenItGreets("another version of the protocol", ({ peer }) => peer.greet(9), /speaks protocol 9/);

  whenItGreets(
    "a hello that comes byte by byte and no end",
    async ({ peer }) => {
      const socket = await peer.dialHost();
      while (!socket.destroyed) {
        socket.write(Uint8Array.of(0));
        await sleep(50);
      }
    },
    /no hello within/,
    { CAISSON_TIMEOUT_SCALE: "0.3" },
  );

  whenItGreets(
    "a hello, and no port that answers",
    async ({ peer }) => {
      peer.onDial = (socket) => socket.destroy();
      await peer.greet();
    },
    /./,
  );

  whenItGreets(
    "a hello, and no answer ever after",
    async ({ peer }) => {
      peer.onDial = () => undefined;
      await peer.greet();
    },
    /CreateSandbox took longer/,
    { CAISSON_TIMEOUT_SCALE: "0.3" },
  );

  whenItGreets(
    "half a hello: it closes its sending side after its first call",
    async ({ peer }) => {
      peer.onDial = (socket) => void socket.end();
      const { socket } = await peer.greet();
      socket.end();
    },
    /./,
  );
});

test("an agent that goes on with output after the exit: the process is deleted all the same", async () => {
  await using trial = await trials.start({ env: { CAISSON_TIMEOUT_SCALE: "0.3" } });
  const created = trial.create();
  await trial.greet();
  await created;
  await trial.task.start({ id: trial.id });
  const polite = trial.peer.onDial;
  trial.peer.onDial = (socket) => void drip(socket);
  const stdout = await trial.fifo();
  await using reader = readForEver(stdout);
  await trial.task.exec({ id: trial.id, execId: "e", spec: processSpec(["true"]), stdout });
  await trial.task.start({ id: trial.id, execId: "e" });
  await trial.exited("e", 0);
  assert.equal((await trial.task.delete({ id: trial.id, execId: "e" })).exitStatus, 0);
  assert.ok(reader.bytes() > 1, "nothing dripped");
  trial.peer.onDial = polite;
  await trial.task.pids({ id: trial.id });
});

test("an agent that tells the container's end before it answers its creation", async () => {
  await using trial = await trials.start({});
  const created = trial.create();
  trial.behave = (method, id, send) => {
    // Field 1 is a pid.
    const answer = () => send(encodeResponseFrame(id, { payload: Uint8Array.of(8, 7) }));
    if (method === "CreateContainer") void trial.exited("", 9).then(answer);
    else answer();
  };
  await trial.greet();
  await created;
  trial.behave = "politely";
  const { id } = trial;
  assert.equal((await trial.task.wait({ id })).exitStatus, 9);
  assert.equal((await trial.task.state({ id })).status, TaskStatus.STOPPED);
  await refused(trial.task.start({ id }), /cannot start a stopped process/);
  assert.equal((await trial.task.delete({ id })).exitStatus, 9);
  await trial.shim.untilEvent("/tasks/delete");
  assert.deepEqual(trial.shim.topics(), ["/tasks/create", "/tasks/exit", "/tasks/delete"]);
});

test("an agent that never tells an exec's end: it has ended when its container is deleted", async () => {
  await using trial = await trials.start({});
  const created = trial.create();
  await trial.greet();
  await created;
  const { id, task } = trial;
  await task.start({ id });
  await task.exec({ id, execId: "e", spec: processSpec(["true"]) });
  await task.start({ id, execId: "e" });
  const waiting = task.wait({ id, execId: "e" });
  await trial.exited("", 0);
  await task.delete({ id });
  assert.equal((await waiting).exitStatus, 137);
});

describe("an agent that misbehaves later", () => {
  let trial: HostileTrial;
  let descriptors = 0;
  let residentKib = 0;
  const execs: string[] = [];
  before(async () => {
    trial = await trials.start({});
    const created = trial.create();
    await trial.greet();
    await created;
    await trial.task.start({ id: trial.id });
    await trial.task.stats({ id: trial.id });
    descriptors = openDescriptors(trial.pid).length;
    residentKib = trial.residentKib();
  });
  after(() => trial?.[Symbol.asyncDispose]());

  /** Afterwards the shim serves as before, with as much memory and as many descriptors. */
  const later = (name: string, misbehave: () => Promise<void>) =>
    test(name, async () => {
      await misbehave();
      trial.behave = "politely";
      await trial.task.pids({ id: trial.id });
      assert.equal((await trial.task.state({ id: trial.id })).pid > 0, true);
      const grown = trial.residentKib() - residentKib;
      assert.ok(grown < GROWTH_KIB, `the shim has grown by ${grown} KiB`);
      await trial.untilDescriptors(descriptors + SPARE_DESCRIPTORS);
    });

  const exec = async (stdio: { stdout?: string } = {}): Promise<string> => {
    const execId = `e${execs.length}`;
    execs.push(execId);
    await trial.task.exec({ id: trial.id, execId, spec: processSpec(["true"]), ...stdio });
    return execId;
  };

  later("answers that nobody asked for, and each answer twice", async () => {
    trial.behave = (_method, id, send) => {
      send(encodeResponseFrame(id + 1000, { payload: random.bytes(100) }));
      send(encodeResponseFrame(0, { payload: random.bytes(100) }));
      send(encodeResponseFrame(id, { payload: new Uint8Array() }));
      send(encodeResponseFrame(id, { status: { code: 5, message: "no" }, payload: new Uint8Array() }));
    };
    for (let i = 0; i < 50; i++) await trial.task.pids({ id: trial.id });
  });

  later("answers of the wrong kind, or that cannot be read", async () => {
    const wrong: [Uint8Array, RegExp][] = [
      [frame(FrameType.Data, 1, random.bytes(10)), /stream data/],
      [frame(FrameType.Request, 1, random.bytes(10)), /a request/],
      [frame(FrameType.Response, 1, Uint8Array.of(0xff, 0xff, 0xff)), /unreadable answer/],
      [encodeResponseFrame(1, { payload: Uint8Array.of(0x0a, 0x7f) }), /malformed/],
      [
        encodeResponseFrame(1, { status: { code: 99, message: "" }, payload: new Uint8Array() }),
        /without a message/,
      ],
    ];
    for (const [bytes, reason] of wrong) {
      trial.behave = (_method, id, send) => {
        new DataView(bytes.buffer, bytes.byteOffset).setUint32(4, id);
        send(bytes);
      };
      await refused(trial.task.pids({ id: trial.id }), reason);
    }
  });

  later("frames of 16 MiB, and one of 300 MiB that answers nothing", async () => {
    trial.behave = (_method, id, send) => send(frame(FrameType.Response, id, new Uint8Array(16 << 20)));
    await refused(trial.task.pids({ id: trial.id }), /16777216 bytes, more than/);
    trial.behave = (_method, id, send) => {
      const header = frame(FrameType.Response, id + 2, new Uint8Array(0));
      writeHeader(header, { length: 300 << 20, streamId: id + 2, type: FrameType.Response, flags: 0 });
      send(header);
      const mebibyte = new Uint8Array(1 << 20);
      for (let i = 0; i < 300; i++) send(mebibyte);
      send(encodeResponseFrame(id, { payload: new Uint8Array() }));
    };
    await trial.task.pids({ id: trial.id });
  });

  later("an answer byte by byte", async () => {
    trial.behave = (_method, id, send) => {
      void (async () => {
        for (const byte of encodeResponseFrame(id, { payload: random.bytes(0) })) {
          send(Uint8Array.of(byte));
          await sleep(20);
        }
      })();
    };
    await trial.task.pids({ id: trial.id });
  });

  later("floods of events about nobody, and of logs", async () => {
    const nobody = ["", "x", "../..", trial.id].flatMap((containerId): Event["event"][] => [
      {
        case: "processExited",
        value: { containerId, execId: "none", status: 2 ** 32 - 1, exitedAtUnixNano: 2n ** 64n - 1n },
      } as never,
      { case: "outOfMemory", value: { containerId: `${containerId}-` } } as never,
      { case: "device", value: { subsystem: "net", name: "e".repeat(500), mac: "" } } as never,
      {
        case: "log",
        value: { level: "error", message: "m".repeat(2000), fieldsJson: "{".repeat(2000), timeUnixNano: 0n },
      } as never,
    ]);
    const events = nobody.map((event) => create(EventSchema, { event }));
    for (let i = 0; i < 500; i++) await trial.host.notify({ events });
  });

  later("its container out of memory ten thousand times", async () => {
    const event = create(EventSchema, {
      event: { case: "outOfMemory", value: { containerId: trial.id } as never },
    });
    const events = Array.from({ length: 500 }, () => event);
    for (let i = 0; i < 20; i++) await trial.host.notify({ events });
    const execId = await exec();
    await trial.task.start({ id: trial.id, execId });
    await trial.exited(execId, 3);
    await trial.shim.untilEvent("/tasks/exit");
    const told = trial.shim.topics().filter((topic) => topic === "/tasks/oom").length;
    assert.ok(told > 0 && told < 50, `containerd was told ${told} times`);
  });

  later("an exit before the start, a second one, and pids that are none", async () => {
    const early = await exec();
    await trial.exited(early, 4);
    await refused(trial.task.start({ id: trial.id, execId: early }), /./);
    assert.equal((await trial.task.delete({ id: trial.id, execId: early })).exitStatus, 4);

    const twice = await exec();
    await trial.task.start({ id: trial.id, execId: twice });
    await trial.exited(twice, 5);
    await trial.exited(twice, 6);
    assert.equal((await trial.task.wait({ id: trial.id, execId: twice })).exitStatus, 5);
    await trial.task.delete({ id: trial.id, execId: twice });

    trial.behave = (method, id, send) =>
      send(
        encodeResponseFrame(id, { payload: method === "StartProcess" ? Uint8Array.of() : new Uint8Array() }),
      );
    const nobody = await exec();
    await refused(trial.task.start({ id: trial.id, execId: nobody }), /pid 0/);
    await trial.task.delete({ id: trial.id, execId: nobody });
  });

  const streams: [string, (socket: net.Socket) => void][] = [
    ["random bytes", (socket) => void socket.end(random.bytes(50_000))],
    ["nothing but an end", (socket) => void socket.end()],
    ["data that nobody gave credit for", (socket) => void sendUnasked(socket)],
    ["data without an end, which nobody reads", (socket) => void sendEndlessly(socket)],
  ];
  for (const [name, misbehave] of streams) {
    later(`a stream with ${name}`, async () => {
      const polite = trial.peer.onDial;
      trial.peer.onDial = misbehave;
      const stdout = await trial.fifo();
      const execId = await exec({ stdout });
      const started = trial.task.start({ id: trial.id, execId }).then(
        () => true,
        (error: unknown) =>
          assert.ok(error instanceof TtrpcError && known.has(error.remoteCode), String(error)),
      );
      if ((await started) === true) {
        await sleep(300);
        await trial.exited(execId, 0);
        // Told on when its reader, which there is none of, has had its time.
        await trial.task.wait({ id: trial.id, execId });
      }
      await trial.task.delete({ id: trial.id, execId });
      trial.peer.onDial = polite;
    });
  }

  later("two hundred connections to the port of the hello", async () => {
    const sockets = await Promise.all(Array.from({ length: 200 }, () => trial.peer.dialHost()));
    for (const socket of sockets) socket.destroy();
  });

  test("it stops answering: a kill ends the machine, and everything goes", async () => {
    trial.behave = () => undefined;
    await trial.task
      .kill({ id: trial.id, signal: 9, all: true })
      .catch((error: unknown) => assert.ok(error instanceof TtrpcError));
    assert.equal((await trial.task.wait({ id: trial.id })).exitStatus, 137);
    await trial.task.delete({ id: trial.id });
    await trial.task.shutdown({ id: trial.id });
  });
});

test("nothing is left of them", async () => {
  await trials.assertEven();
});

function frame(type: number, streamId: number, data: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(HEADER_LENGTH + data.length);
  writeHeader(bytes, { length: data.length, streamId, type, flags: 0 });
  bytes.set(data, HEADER_LENGTH);
  return bytes;
}

async function sendUnasked(socket: net.Socket): Promise<void> {
  const { stream } = await FramedStream.accept(byteStreamFromSocket(socket));
  stream.confirm();
  const data = Uint8Array.of(2, 0, 0, 0, 0, 0, 0x3f, 0xf0, ...new Uint8Array(0x3ff0));
  for (let i = 0; i < 200; i++) socket.write(data);
}

/** A byte every now and then, without an end. */
async function drip(socket: net.Socket): Promise<void> {
  const { stream } = await FramedStream.accept(byteStreamFromSocket(socket));
  stream.confirm();
  try {
    for (;;) {
      await stream.send(Uint8Array.of(0x2e));
      await sleep(400);
    }
  } catch {
    // The shim has had enough.
  }
}

function readForEver(path: string): AsyncDisposable & { bytes(): number } {
  let bytes = 0;
  const fd = openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
  const socket = new net.Socket({ fd, readable: true, writable: false });
  socket.on("data", (chunk: Buffer) => {
    bytes += chunk.length;
  });
  return {
    bytes: () => bytes,
    [Symbol.asyncDispose]: async () => void socket.destroy(),
  };
}

async function sendEndlessly(socket: net.Socket): Promise<void> {
  const { stream } = await FramedStream.accept(byteStreamFromSocket(socket));
  stream.confirm();
  try {
    for (;;) await stream.send(new Uint8Array(16_000));
  } catch {
    // The shim has had enough.
  }
}
