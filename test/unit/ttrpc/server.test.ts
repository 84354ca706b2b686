import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { SandboxError, Status } from "../../../src/base/errors.ts";
import { type Log, type LogFields, silentLog } from "../../../src/base/log.ts";
import { decodeResponse, encodeRequestFrame } from "../../../src/ttrpc/envelope.ts";
import {
  FrameFlag,
  FrameType,
  HEADER_LENGTH,
  MAX_DATA_LENGTH,
  writeHeader,
} from "../../../src/ttrpc/frame.ts";
import { memoryStreamPair } from "../../../src/ttrpc/memory-stream.ts";
import { serveConnection, TtrpcServer } from "../../../src/ttrpc/server.ts";
import type { ServerConnection, ServerLimits } from "../../../src/ttrpc/server-connection.ts";
import type { CallContext, MethodHandler } from "../../../src/ttrpc/service.ts";
import { deferred, RawPeer, rawService } from "./raw-peer.ts";

const noBytes = new Uint8Array(0);

function serve(
  methods: Record<string, MethodHandler>,
  limits: Partial<ServerLimits> = {},
): { peer: RawPeer; connection: ServerConnection } {
  const [near, far] = memoryStreamPair();
  const connection = serveConnection(near, [rawService("S", methods)], { limits });
  return { peer: new RawPeer(far), connection };
}

/** Stream id, status code and payload of the next answer. */
async function nextAnswer(
  peer: RawPeer,
): Promise<{ id: number; code: number; message: string; payload: number[] }> {
  const frame = await peer.next();
  assert.ok(frame !== undefined, "the connection ended");
  assert.equal(frame.type, FrameType.Response);
  const { status, payload } = decodeResponse(frame.data);
  return {
    id: frame.streamId,
    code: status?.code ?? 0,
    message: status?.message ?? "",
    payload: [...payload],
  };
}

const echo: MethodHandler = async (payload) => payload.slice();

/** Resolves when the signal aborts, with its reason. */
const aborted = (signal: AbortSignal) =>
  new Promise<unknown>((resolve) => {
    if (signal.aborted) resolve(signal.reason);
    signal.addEventListener("abort", () => resolve(signal.reason));
  });

describe("server connection", () => {
  it("answers concurrent calls as they finish", async () => {
    const slow = deferred<Uint8Array>();
    const { peer, connection } = serve({ Slow: () => slow.promise, Echo: echo });
    await peer.request(1, "S", "Slow");
    await peer.request(3, "S", "Echo", Uint8Array.of(7));
    assert.deepEqual(await nextAnswer(peer), { id: 3, code: 0, message: "", payload: [7] });
    slow.resolve(Uint8Array.of(1));
    assert.deepEqual(await nextAnswer(peer), { id: 1, code: 0, message: "", payload: [1] });
    connection.close();
  });

  it("gives the handler names, metadata and the deadline", async () => {
    const seen = deferred<CallContext>();
    const { peer, connection } = serve({
      M: async (_, context) => {
        seen.resolve(context);
        return noBytes;
      },
    });
    const before = performance.now();
    await peer.stream.write(
      encodeRequestFrame(1, 0, {
        service: "S",
        method: "M",
        payload: noBytes,
        timeoutNano: 5_000_000_000n,
        metadata: { NS: "k8s.io" },
      }),
    );
    const context = await seen.promise;
    assert.deepEqual([context.service, context.method, context.metadata.get("ns")], ["S", "M", ["k8s.io"]]);
    assert.ok(
      (context.deadline ?? 0) >= before + 5000 && (context.deadline ?? 0) <= performance.now() + 5000,
    );
    assert.equal((await nextAnswer(peer)).code, 0);
    connection.close();
  });

  it("answers Unimplemented for an unknown service or method", async () => {
    const { peer, connection } = serve({ Echo: echo });
    await peer.request(1, "T", "Echo");
    await peer.request(3, "S", "Nope");
    assert.deepEqual(await nextAnswer(peer), {
      id: 1,
      code: Status.Unimplemented,
      message: "service T is not served here",
      payload: [],
    });
    assert.deepEqual(await nextAnswer(peer), {
      id: 3,
      code: Status.Unimplemented,
      message: "method S/Nope is not implemented",
      payload: [],
    });
    connection.close();
  });

  it("answers thrown errors with their status and whole chain, never with Unknown", async () => {
    const errors = [
      new SandboxError("ERR_STATE", "cannot start", { cause: new Error("it is stopped") }),
      new TypeError("x is not a function"),
      "a string",
      undefined,
    ];
    const { peer, connection } = serve({
      M: async (payload) => {
        throw errors[payload[0] ?? 0];
      },
    });
    const answers: [number, string][] = [];
    for (let i = 0; i < errors.length; i++) {
      await peer.request(1 + 2 * i, "S", "M", Uint8Array.of(i));
      const { code, message } = await nextAnswer(peer);
      answers.push([code, message]);
    }
    assert.deepEqual(answers, [
      [Status.FailedPrecondition, "cannot start: it is stopped"],
      [Status.Internal, "x is not a function"],
      [Status.Internal, "a string"],
      [Status.Internal, "the call failed without a message"],
    ]);
    connection.close();
  });

  it("answers DeadlineExceeded at the deadline, aborts the handler and drops its result", async () => {
    const late = deferred<Uint8Array>();
    const reason = deferred<unknown>();
    const { peer, connection } = serve({
      M: (_, { signal }) => {
        void aborted(signal).then(reason.resolve);
        return late.promise;
      },
      Echo: echo,
    });
    await peer.stream.write(
      encodeRequestFrame(1, 0, { service: "S", method: "M", payload: noBytes, timeoutNano: 20_000_000n }),
    );
    const answer = await nextAnswer(peer);
    assert.deepEqual([answer.id, answer.code], [1, Status.DeadlineExceeded]);
    assert.equal(((await reason.promise) as SandboxError).code, "ERR_DEADLINE");
    assert.equal(connection.activeCalls, 1);
    late.resolve(Uint8Array.of(1));
    await peer.request(3, "S", "Echo");
    assert.equal((await nextAnswer(peer)).id, 3);
    assert.equal(connection.activeCalls, 0);
    connection.close();
  });

  it("aborts a signal that the handler asks for after the deadline has passed", async () => {
    const reason = deferred<unknown>();
    const { peer, connection } = serve({
      M: async (_, context) => {
        await new Promise((resolve) => setTimeout(resolve, 20));
        reason.resolve(context.signal.aborted ? context.signal.reason : undefined);
        return noBytes;
      },
    });
    await peer.stream.write(
      encodeRequestFrame(1, 0, { service: "S", method: "M", payload: noBytes, timeoutNano: 1_000_000n }),
    );
    assert.equal((await nextAnswer(peer)).code, Status.DeadlineExceeded);
    assert.equal(((await reason.promise) as SandboxError).code, "ERR_DEADLINE");
    connection.close();
  });

  it("expires at once a call whose deadline had passed when it was sent", async () => {
    const { peer, connection } = serve({ M: (_, { signal }) => aborted(signal).then(() => noBytes) });
    await peer.stream.write(
      encodeRequestFrame(1, 0, { service: "S", method: "M", payload: noBytes, timeoutNano: -1n }),
    );
    assert.equal((await nextAnswer(peer)).code, Status.DeadlineExceeded);
    connection.close();
  });

  it("drains an oversize request, refuses it with ResourceExhausted and serves the next one", async () => {
    const { peer, connection } = serve({ Echo: echo });
    const header = new Uint8Array(HEADER_LENGTH);
    writeHeader(header, { length: MAX_DATA_LENGTH + 1, streamId: 1, type: FrameType.Request, flags: 0 });
    await peer.stream.write(header);
    await peer.stream.write(new Uint8Array(MAX_DATA_LENGTH + 1));
    await peer.request(3, "S", "Echo", Uint8Array.of(5));
    const refusal = await nextAnswer(peer);
    assert.deepEqual([refusal.id, refusal.code], [1, Status.ResourceExhausted]);
    assert.deepEqual(await nextAnswer(peer), { id: 3, code: 0, message: "", payload: [5] });
    connection.close();
  });

  it("refuses messages over a lower limit of its own", async () => {
    const { peer, connection } = serve({ Echo: echo }, { maxMessageBytes: 100 });
    await peer.request(1, "S", "Echo", new Uint8Array(100));
    const refusal = await nextAnswer(peer);
    assert.deepEqual([refusal.code, /limit of 100/.test(refusal.message)], [Status.ResourceExhausted, true]);
    await peer.request(3, "S", "Echo", new Uint8Array(50));
    assert.equal((await nextAnswer(peer)).code, 0);
    connection.close();
  });

  it("takes a request of exactly the limit", async () => {
    const { peer, connection } = serve({ Size: async (payload) => Uint8Array.of(payload.length >> 16) });
    const overhead =
      encodeRequestFrame(1, 0, { service: "S", method: "Size", payload: new Uint8Array(1 << 21) }).length -
      HEADER_LENGTH -
      (1 << 21);
    const frame = encodeRequestFrame(1, 0, {
      service: "S",
      method: "Size",
      payload: new Uint8Array(MAX_DATA_LENGTH - overhead),
    });
    assert.equal(frame.length, HEADER_LENGTH + MAX_DATA_LENGTH);
    await peer.stream.write(frame);
    assert.deepEqual((await nextAnswer(peer)).payload, [63]);
    connection.close();
  });

  it("answers ResourceExhausted when the handler's output is oversize", async () => {
    const { peer, connection } = serve({ M: async () => new Uint8Array(MAX_DATA_LENGTH + 1) });
    await peer.request(1, "S", "M");
    assert.equal((await nextAnswer(peer)).code, Status.ResourceExhausted);
    connection.close();
  });

  it("refuses even, reused and falling stream ids with InvalidArgument", async () => {
    const { peer, connection } = serve({ Echo: echo });
    await peer.request(2, "S", "Echo");
    assert.deepEqual([(await nextAnswer(peer)).code], [Status.InvalidArgument]);
    await peer.request(5, "S", "Echo");
    assert.deepEqual([(await nextAnswer(peer)).code], [0]);
    for (const id of [5, 3]) {
      await peer.request(id, "S", "Echo");
      const answer = await nextAnswer(peer);
      assert.deepEqual([answer.id, answer.code], [id, Status.InvalidArgument]);
    }
    connection.close();
  });

  it("refuses a streaming call once, drops its data and stays usable", async () => {
    const { peer, connection } = serve({ Echo: echo });
    await peer.request(1, "S", "Echo", noBytes, FrameFlag.RemoteOpen);
    assert.equal((await nextAnswer(peer)).code, Status.Unimplemented);
    await peer.send(1, FrameType.Data, 0, Uint8Array.of(1));
    await peer.send(1, FrameType.Data, FrameFlag.RemoteClosed | FrameFlag.NoData);
    await peer.request(3, "S", "Echo");
    assert.equal((await nextAnswer(peer)).id, 3);
    connection.close();
  });

  it("answers data on a stream that was never opened, and ends a unary call that gets data", async () => {
    const reason = deferred<unknown>();
    const { peer, connection } = serve({
      Wait: (_, { signal }) => {
        void aborted(signal).then(reason.resolve);
        return new Promise(() => undefined);
      },
    });
    await peer.send(9, FrameType.Data, 0, Uint8Array.of(1));
    const stray = await nextAnswer(peer);
    assert.deepEqual([stray.id, stray.code], [9, Status.InvalidArgument]);
    await peer.request(11, "S", "Wait");
    await peer.send(11, FrameType.Data, 0, Uint8Array.of(1));
    const ended = await nextAnswer(peer);
    assert.deepEqual([ended.id, ended.code], [11, Status.InvalidArgument]);
    await reason.promise;
    connection.close();
  });

  it("ignores frame types that it does not know", async () => {
    const { peer, connection } = serve({ Echo: echo });
    await peer.send(1, 9, 0, Uint8Array.of(1, 2, 3));
    await peer.request(1, "S", "Echo");
    assert.equal((await nextAnswer(peer)).code, 0);
    connection.close();
  });

  it("gives a half-closed peer its answers and then ends", { timeout: 5000 }, async () => {
    const slow = deferred<Uint8Array>();
    const { peer, connection } = serve({ Slow: () => slow.promise }, { halfCloseMs: 60_000 });
    await peer.request(1, "S", "Slow");
    peer.stream.end();
    setTimeout(() => slow.resolve(Uint8Array.of(4)), 10);
    assert.deepEqual((await nextAnswer(peer)).payload, [4]);
    assert.equal(await peer.next(), undefined);
    await connection.closed;
  });

  it("does not keep the calls of a half-closed peer for ever", async () => {
    const reason = deferred<unknown>();
    const { peer, connection } = serve(
      {
        Wait: (_, { signal }) => {
          void aborted(signal).then(reason.resolve);
          return new Promise(() => undefined);
        },
      },
      { halfCloseMs: 20 },
    );
    await peer.request(1, "S", "Wait");
    peer.stream.end();
    await connection.closed;
    assert.equal(((await reason.promise) as SandboxError).code, "ERR_CANCELED");
  });

  it("aborts the handlers when the connection breaks inside a frame", async () => {
    const reason = deferred<unknown>();
    const { peer, connection } = serve({
      Wait: (_, { signal }) =>
        aborted(signal)
          .then(reason.resolve)
          .then(() => noBytes),
    });
    await peer.request(1, "S", "Wait");
    await peer.stream.write(Uint8Array.of(0, 0));
    peer.stream.destroy();
    await connection.closed;
    assert.equal(((await reason.promise) as SandboxError).code, "ERR_CANCELED");
  });

  it("refuses calls beyond its limits with ResourceExhausted and serves again afterwards", async () => {
    const gate = deferred<Uint8Array>();
    const { peer, connection } = serve(
      { Wait: () => gate.promise, Echo: echo },
      { maxConcurrentCalls: 2, maxRequestBytes: 1000 },
    );
    await peer.request(1, "S", "Wait");
    await peer.request(3, "S", "Echo", new Uint8Array(2000));
    assert.deepEqual([(await nextAnswer(peer)).code], [Status.ResourceExhausted]);
    await peer.request(5, "S", "Wait");
    await peer.request(7, "S", "Echo");
    const refused = await nextAnswer(peer);
    assert.deepEqual([refused.id, refused.code], [7, Status.ResourceExhausted]);
    gate.resolve(noBytes);
    await nextAnswer(peer);
    await nextAnswer(peer);
    await peer.request(9, "S", "Echo", new Uint8Array(2000));
    assert.equal((await nextAnswer(peer)).code, 0);
    connection.close();
  });

  it("gives the bytes of a finished request back while others are in progress", async () => {
    const { peer, connection } = serve(
      { Wait: () => new Promise(() => undefined), Echo: echo },
      { maxRequestBytes: 1000 },
    );
    await peer.request(1, "S", "Wait");
    for (let id = 3; id < 23; id += 2) {
      await peer.request(id, "S", "Echo", new Uint8Array(400));
      const answer = await nextAnswer(peer);
      assert.deepEqual([answer.id, answer.code], [id, 0]);
    }
    connection.close();
  });

  it("stops reading while its answers are not read, and loses none of them", async () => {
    const [near, far] = memoryStreamPair(1024);
    let calls = 0;
    const methods = {
      Big: async () => {
        calls += 1;
        return new Uint8Array(4096);
      },
    };
    const connection = serveConnection(near, [rawService("S", methods)], {
      limits: { maxUnsentBytes: 8192 },
    });
    const total = 200;
    const sending = (async () => {
      for (let i = 0; i < total; i++) {
        await far.write(encodeRequestFrame(1 + 2 * i, 0, { service: "S", method: "Big", payload: noBytes }));
      }
    })();
    await new Promise((resolve) => setTimeout(resolve, 50));
    assert.ok(calls < total, `${calls} calls ran although nothing was read`);
    const peer = new RawPeer(far);
    for (let i = 0; i < total; i++) assert.equal((await nextAnswer(peer)).payload.length, 4096);
    await sending;
    assert.equal(calls, total);
    connection.close();
  });

  it("survives random frames and still answers", async () => {
    let state = 99;
    const next = () => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return state >>> 24;
    };
    for (let round = 0; round < 50; round++) {
      const { peer, connection } = serve({ Echo: echo });
      for (let i = 0; i < 10; i++) {
        await peer.send(next(), next() % 5, next(), Uint8Array.from({ length: next() % 40 }, next));
      }
      await peer.request(1001, "S", "Echo", Uint8Array.of(round));
      for (;;) {
        const answer = await nextAnswer(peer);
        if (answer.id !== 1001) continue;
        assert.deepEqual(answer.payload, [round]);
        break;
      }
      connection.close();
    }
  });

  it("drain() refuses new calls, lets the open ones finish and ends when the peer hangs up", async () => {
    const gate = deferred<Uint8Array>();
    const { peer, connection } = serve({ Wait: () => gate.promise, Echo: echo });
    await peer.request(1, "S", "Wait");
    await peer.request(3, "S", "Echo");
    await nextAnswer(peer);
    const drained = connection.drain(5000);
    await peer.request(5, "S", "Echo");
    assert.deepEqual([(await nextAnswer(peer)).code], [Status.Unavailable]);
    gate.resolve(Uint8Array.of(8));
    assert.deepEqual((await nextAnswer(peer)).payload, [8]);
    // An end of the stream that comes with the answer hides the answer from Go's client: the peer hangs up first.
    assert.equal(
      await Promise.race([drained, new Promise((resolve) => setTimeout(resolve, 30, "open"))]),
      "open",
    );
    peer.stream.end();
    await drained;
    assert.equal(await peer.next(), undefined);
  });

  it("drain() ends the connection of a peer that stays", async () => {
    const { peer, connection } = serve({ Echo: echo });
    await connection.drain(20);
    assert.equal(await peer.next(), undefined);
  });
});

describe("server log", () => {
  it("has an error for a failed call, with a stack for a bug, and only debug records for expected answers", async () => {
    const records: [string, string, unknown, boolean][] = [];
    const note = (level: string) => (fields: LogFields, message: string) =>
      void records.push([level, message, fields.code, fields.stack !== undefined]);
    const log: Log = { ...silentLog, error: note("error"), debug: note("debug") };
    const errors = [
      new SandboxError("ERR_BOOT", "no kernel"),
      new SandboxError("ERR_NOT_FOUND", "no task"),
      new TypeError("a bug"),
    ];
    const throwing: MethodHandler = (payload) => Promise.reject(errors[payload[0] ?? 0]);
    const [near, far] = memoryStreamPair();
    const connection = serveConnection(near, [rawService("S", { M: throwing })], { log });
    const peer = new RawPeer(far);
    for (const i of [0, 1, 2]) {
      await peer.request(1 + 2 * i, "S", "M", Uint8Array.of(i));
      await nextAnswer(peer);
    }
    connection.close();
    assert.deepEqual(records, [
      ["error", "call failed", "ERR_BOOT", false],
      ["debug", "call failed", "ERR_NOT_FOUND", false],
      ["error", "call failed unexpectedly", undefined, true],
    ]);
  });
});

describe("TtrpcServer", () => {
  it("serves many connections and forgets those that ended", async () => {
    const server = new TtrpcServer({ services: [rawService("S", { Echo: echo })], maxConnections: 2 });
    const pairs = [memoryStreamPair(), memoryStreamPair()];
    const served = pairs.map(([near]) => server.serve(near));
    const peers = pairs.map(([, far]) => new RawPeer(far));
    for (const peer of peers) {
      await peer.request(1, "S", "Echo", Uint8Array.of(1));
      assert.deepEqual((await nextAnswer(peer)).payload, [1]);
    }
    const [near, far] = memoryStreamPair();
    await server.serve(near);
    assert.equal(await new RawPeer(far).next(), undefined);
    peers[0]?.stream.destroy();
    await served[0];
    assert.equal(server.connectionCount, 1);
    await server.close(100);
    await served[1];
    assert.equal(server.connectionCount, 0);
  });

  it("close() ends calls that do not finish within its limit", async () => {
    const started = deferred<undefined>();
    const wait: MethodHandler = () => {
      started.resolve(undefined);
      return new Promise(() => undefined);
    };
    const server = new TtrpcServer({ services: [rawService("S", { Wait: wait })] });
    const [near, far] = memoryStreamPair();
    const served = server.serve(near);
    const peer = new RawPeer(far);
    await peer.request(1, "S", "Wait");
    await started.promise;
    await server.close(20);
    await served;
    assert.equal(await peer.next(), undefined);
  });

  it("refuses two services of one name", () => {
    assert.throws(() => new TtrpcServer({ services: [rawService("S", {}), rawService("S", {})] }), {
      code: "ERR_INTERNAL",
    });
  });
});
