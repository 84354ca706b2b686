import assert from "node:assert/strict";
import { describe, it } from "node:test";
import {
  decodeRequest,
  decodeResponse,
  encodeRequestFrame,
  encodeResponseFrame,
} from "../../../src/ttrpc/envelope.ts";
import { HEADER_LENGTH, MAX_DATA_LENGTH, readHeader } from "../../../src/ttrpc/frame.ts";

const body = (frame: Uint8Array) => frame.subarray(HEADER_LENGTH);
const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");

describe("request envelope", () => {
  it("has the bytes that ttrpc's request.proto gives it", () => {
    const frame = encodeRequestFrame(3, 0, {
      service: "S",
      method: "M",
      payload: Uint8Array.of(0xff, 0x00),
      timeoutNano: 300n,
      metadata: { Key: ["v", "w"] },
    });
    assert.equal(
      hex(frame),
      "00000021" +
        "00000003" +
        "0100" + // length 33, stream 3, request, no flags
        "0a0153" +
        "12014d" +
        "1a02ff00" +
        "20ac02" + // service, method, payload, timeout
        "2a080a036b6579120176" +
        "2a080a036b6579120177", // metadata, the key in lower case
    );
    assert.equal(readHeader(frame).length, frame.length - HEADER_LENGTH);
  });

  it("comes back as it was sent", () => {
    const frame = encodeRequestFrame(1, 0, {
      service: "containerd.task.v2.Task",
      method: "Create",
      payload: Uint8Array.of(1, 2, 3),
      timeoutNano: -5n,
      metadata: { one: "1", two: ["a", "b"] },
    });
    const request = decodeRequest(body(frame));
    assert.equal(request.service, "containerd.task.v2.Task");
    assert.equal(request.method, "Create");
    assert.deepEqual([...request.payload], [1, 2, 3]);
    assert.equal(request.timeoutNano, -5n);
    assert.deepEqual(
      [...request.metadata],
      [
        ["one", ["1"]],
        ["two", ["a", "b"]],
      ],
    );
  });

  it("skips fields that it does not know", () => {
    // Field 9 varint, field 10 fixed64, field 11 bytes, field 12 fixed32, then service.
    const data = Buffer.from("4801" + "510102030405060708" + "5a020102" + "6501020304" + "0a0153", "hex");
    assert.equal(decodeRequest(data).service, "S");
  });

  it("is refused as InvalidArgument when cut anywhere but between fields", () => {
    const whole = body(encodeRequestFrame(1, 0, { service: "S", method: "M", payload: Uint8Array.of(9) }));
    const boundaries = new Set([0, 3, 6, 9]);
    for (let cut = 0; cut <= whole.length; cut++) {
      const part = whole.subarray(0, cut);
      if (boundaries.has(cut)) decodeRequest(part);
      else assert.throws(() => decodeRequest(part), { code: "ERR_INVALID_ARGUMENT" }, `cut at ${cut}`);
    }
  });

  it("refuses more metadata entries than any real call has", () => {
    const metadata = { key: Array.from({ length: 1025 }, () => "v") };
    const frame = encodeRequestFrame(1, 0, {
      service: "S",
      method: "M",
      payload: new Uint8Array(0),
      metadata,
    });
    assert.throws(() => decodeRequest(body(frame)), { code: "ERR_INVALID_ARGUMENT" });
  });

  it("answers random bytes with a SandboxError or a request, never with another exception", () => {
    for (let round = 0; round < 5000; round++) {
      const data = Uint8Array.from(
        { length: round % 40 },
        (_, i) => (Math.imul(round + 1, i * 7919 + 104729) >>> 7) & 0xff,
      );
      try {
        decodeRequest(data);
      } catch (error) {
        assert.equal((error as { code?: string }).code, "ERR_INVALID_ARGUMENT");
      }
    }
  });

  it("over 4 MiB is an error that names the call and both sizes", () => {
    assert.throws(
      () => encodeRequestFrame(1, 0, { service: "S", method: "M", payload: new Uint8Array(MAX_DATA_LENGTH) }),
      (error: Error & { code?: string }) =>
        error.code === "ERR_FRAME_TOO_LARGE" &&
        /S\/M has 41943\d\d bytes, more than the 4194304/.test(error.message),
    );
  });
});

describe("response envelope", () => {
  it("of a success carries the payload alone", () => {
    assert.equal(
      hex(encodeResponseFrame(5, { payload: Uint8Array.of(1) })),
      "00000003" + "00000005" + "0200" + "120101",
    );
  });

  it("of an error carries google.rpc.Status in field 1", () => {
    const frame = encodeResponseFrame(5, { status: { code: 5, message: "no" }, payload: new Uint8Array(0) });
    assert.equal(hex(body(frame)), "0a06" + "0805" + "12026e6f");
    assert.deepEqual(decodeResponse(body(frame)).status, { code: 5, message: "no" });
  });

  it("skips the details of a status", () => {
    const data = Buffer.from("0a0a" + "0807" + "12026e6f" + "1a020a00" + "120109", "hex");
    assert.deepEqual(decodeResponse(data).status, { code: 7, message: "no" });
    assert.deepEqual([...decodeResponse(data).payload], [9]);
  });

  it("that is malformed is a protocol error", () => {
    assert.throws(() => decodeResponse(Uint8Array.of(0x0a, 0x05, 0x08)), { code: "ERR_PROTOCOL" });
    assert.throws(() => decodeResponse(Uint8Array.of(0x0a, 0x02, 0x12, 0x7f)), { code: "ERR_PROTOCOL" });
  });
});
