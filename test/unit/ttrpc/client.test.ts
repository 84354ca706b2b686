import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { SandboxError, Status } from "../../../src/base/errors.ts";
import { type ClientOptions, TtrpcClient } from "../../../src/ttrpc/client.ts";
import { decodeRequest, encodeResponseFrame } from "../../../src/ttrpc/envelope.ts";
import { TtrpcError } from "../../../src/ttrpc/errors.ts";
import { FrameType, HEADER_LENGTH, MAX_DATA_LENGTH, writeHeader } from "../../../src/ttrpc/frame.ts";
import { memoryStreamPair } from "../../../src/ttrpc/memory-stream.ts";
import { RawPeer } from "./raw-peer.ts";

const noBytes = new Uint8Array(0);

function connect(options: ClientOptions = {}): { client: TtrpcClient; peer: RawPeer } {
  const [near, far] = memoryStreamPair();
  return { client: new TtrpcClient(near, { peer: "the peer", ...options }), peer: new RawPeer(far) };
}

const answer = (streamId: number, ...payload: number[]) =>
  encodeResponseFrame(streamId, { payload: Uint8Array.from(payload) });

describe("TtrpcClient", () => {
  it("sends odd, growing stream ids and request frames without flags", async () => {
    const { client, peer } = connect();
    const calls = [
      client.call("S", "A", noBytes),
      client.call("S", "B", noBytes),
      client.call("S", "C", noBytes),
    ];
    for (const id of [1, 3, 5]) {
      const frame = await peer.next();
      assert.deepEqual([frame?.streamId, frame?.type, frame?.flags], [id, FrameType.Request, 0]);
      await peer.stream.write(answer(id));
    }
    await Promise.all(calls);
    client.close();
  });

  it("matches answers that come in another order", async () => {
    const { client, peer } = connect();
    const calls = [1, 2, 3].map((n) => client.call("S", "M", Uint8Array.of(n)));
    for (let i = 0; i < 3; i++) await peer.next();
    for (const id of [5, 1, 3]) await peer.stream.write(answer(id, id));
    assert.deepEqual(
      (await Promise.all(calls)).map((bytes) => [...bytes]),
      [[1], [3], [5]],
    );
    client.close();
  });

  it("sends timeout and metadata", async () => {
    const { client, peer } = connect();
    const call = client.call("S", "M", noBytes, { timeoutMs: 1500.5, metadata: { "X-Key": ["a", "b"] } });
    const frame = await peer.next();
    const request = decodeRequest(frame?.data ?? noBytes);
    assert.equal(request.timeoutNano, 1_500_500_000n);
    assert.deepEqual([...request.metadata], [["x-key", ["a", "b"]]]);
    await peer.stream.write(answer(1));
    await call;
    client.close();
  });

  it("rejects with the peer's status, message and the nearest code", async () => {
    const { client, peer } = connect();
    const call = client.call("S", "M", noBytes);
    await peer.next();
    await peer.stream.write(
      encodeResponseFrame(1, { status: { code: Status.NotFound, message: "no task x" }, payload: noBytes }),
    );
    await assert.rejects(call, (error) => {
      assert.ok(error instanceof TtrpcError);
      assert.deepEqual(
        [error.code, error.status, error.remoteCode, error.message],
        ["ERR_NOT_FOUND", 5, 5, "no task x"],
      );
      return true;
    });
    client.close();
  });

  it("gives a call up at its deadline and drops the late answer", async () => {
    const { client, peer } = connect();
    await assert.rejects(client.call("S", "M", noBytes, { timeoutMs: 20 }), {
      code: "ERR_DEADLINE",
      message: /S\/M .*20 ms/,
    });
    assert.equal(client.pendingCalls, 0);
    await peer.next();
    await peer.stream.write(answer(1, 9));
    const next = client.call("S", "M", noBytes);
    await peer.next();
    await peer.stream.write(answer(3, 7));
    assert.deepEqual([...(await next)], [7]);
    client.close();
  });

  it("rejects at once with an elapsed timeout, sending nothing", async () => {
    const { client, peer } = connect();
    await assert.rejects(client.call("S", "M", noBytes, { timeoutMs: 0 }), { code: "ERR_DEADLINE" });
    const call = client.call("S", "N", noBytes);
    assert.equal((await peer.next())?.streamId, 1);
    await peer.stream.write(answer(1));
    await call;
    client.close();
  });

  it("gives a call up when its signal aborts, with the signal's own SandboxError", async () => {
    const { client } = connect();
    const plain = new AbortController();
    const own = new AbortController();
    const calls = [
      client.call("S", "M", noBytes, { signal: plain.signal }),
      client.call("S", "M", noBytes, { signal: own.signal }),
    ];
    plain.abort();
    own.abort(new SandboxError("ERR_STATE", "stopped"));
    await assert.rejects(calls[0] ?? Promise.resolve(), { code: "ERR_CANCELED" });
    await assert.rejects(calls[1] ?? Promise.resolve(), { code: "ERR_STATE", message: "stopped" });
    await assert.rejects(client.call("S", "M", noBytes, { signal: plain.signal }), { code: "ERR_CANCELED" });
    client.close();
  });

  it("fails every pending call when the peer closes, and later calls too", async () => {
    const { client, peer } = connect();
    const calls = [client.call("S", "A", noBytes), client.call("S", "B", noBytes)];
    await peer.next();
    peer.stream.destroy();
    for (const call of calls)
      await assert.rejects(call, { code: "ERR_UNAVAILABLE", message: "the peer closed the connection" });
    assert.equal((await client.closed).code, "ERR_UNAVAILABLE");
    await assert.rejects(client.call("S", "C", noBytes), { code: "ERR_UNAVAILABLE" });
  });

  it("fails pending calls when the stream breaks, keeping the cause", async () => {
    const { client, peer } = connect();
    const call = client.call("S", "A", noBytes);
    await peer.next();
    await peer.stream.write(Uint8Array.of(0, 0, 0, 9, 0));
    peer.stream.destroy();
    await assert.rejects(call, { code: "ERR_PROTOCOL", message: /middle of a frame/ });
  });

  it("fails pending calls with the reason given to close()", async () => {
    const { client, peer } = connect();
    const call = client.call("S", "A", noBytes);
    client.close(new SandboxError("ERR_BOOT", "the guest is gone"));
    await assert.rejects(call, { code: "ERR_BOOT" });
    assert.equal((await client.closed).code, "ERR_BOOT");
    while ((await peer.next()) !== undefined);
  });

  it("fails only the call whose answer is oversize", async () => {
    const { client, peer } = connect();
    const big = client.call("S", "Big", noBytes);
    const small = client.call("S", "Small", noBytes);
    await peer.next();
    const header = new Uint8Array(HEADER_LENGTH);
    writeHeader(header, { length: MAX_DATA_LENGTH + 1, streamId: 1, type: FrameType.Response, flags: 0 });
    await peer.stream.write(header);
    const rejected = assert.rejects(big, { code: "ERR_FRAME_TOO_LARGE" });
    await peer.stream.write(new Uint8Array(MAX_DATA_LENGTH + 1));
    await peer.stream.write(answer(3, 1));
    await rejected;
    assert.deepEqual([...(await small)], [1]);
    client.close();
  });

  it("refuses to send an oversize request and stays usable", async () => {
    const { client, peer } = connect();
    await assert.rejects(client.call("S", "M", new Uint8Array(MAX_DATA_LENGTH)), {
      code: "ERR_FRAME_TOO_LARGE",
    });
    const call = client.call("S", "M", noBytes);
    assert.equal((await peer.next())?.streamId, 1);
    await peer.stream.write(answer(1));
    await call;
    client.close();
  });

  it("fails a unary call that is answered with stream data or rubbish", async () => {
    const { client, peer } = connect();
    const streamed = client.call("S", "A", noBytes);
    const garbled = client.call("S", "B", noBytes);
    await peer.send(1, FrameType.Data, 1, Uint8Array.of(1));
    await assert.rejects(streamed, {
      code: "ERR_PROTOCOL",
      message: /the peer answered the unary call S\/A with stream data/,
    });
    await peer.send(3, FrameType.Response, 0, Uint8Array.of(0x0a, 0x7f));
    await assert.rejects(garbled, { code: "ERR_PROTOCOL" });
    client.close();
  });

  it("ignores frame types and streams that it does not know", async () => {
    const { client, peer } = connect();
    const call = client.call("S", "A", noBytes);
    await peer.send(1, 77, 0, Uint8Array.of(1));
    await peer.send(99, FrameType.Response, 0);
    await peer.stream.write(answer(1, 5));
    assert.deepEqual([...(await call)], [5]);
    client.close();
  });

  it("bounds the calls and the bytes that wait for a peer that does not react", async () => {
    const { client } = connect({ maxPendingCalls: 2, maxQueuedBytes: 100_000 });
    const open = [client.call("S", "M", new Uint8Array(80_000)), client.call("S", "M", noBytes)];
    await assert.rejects(client.call("S", "M", noBytes), { code: "ERR_EXHAUSTED" });
    client.close();
    for (const call of open) await assert.rejects(call);

    const [near] = memoryStreamPair();
    const stuck = new TtrpcClient(near, { maxQueuedBytes: 100_000 });
    const first = stuck.call("S", "M", new Uint8Array(200_000));
    await assert.rejects(stuck.call("S", "M", noBytes), { code: "ERR_EXHAUSTED" });
    stuck.close();
    await assert.rejects(first);
  });

  it("survives random bytes from the peer without hanging a call", async () => {
    let state = 12345;
    const next = () => {
      state = (Math.imul(state, 1103515245) + 12345) >>> 0;
      return (state >>> 16) & 0xff;
    };
    for (let round = 0; round < 100; round++) {
      const { client, peer } = connect();
      const call = client.call("S", "M", noBytes).catch((error: unknown) => error);
      for (let i = 0; i < 5; i++) {
        const data = Uint8Array.from({ length: next() % 30 }, next);
        await peer.send(next() % 4, next() % 5, next(), data);
      }
      peer.stream.destroy();
      const outcome = await call;
      assert.ok(outcome instanceof Uint8Array || outcome instanceof SandboxError, String(outcome));
    }
  });
});
