import assert from "node:assert/strict";
import { randomBytes, randomInt } from "node:crypto";
import { test } from "node:test";
import { SandboxError } from "../../../src/base/errors.ts";
import {
  encodeFrame,
  encodeSize,
  encodeU32,
  FrameDecoder,
  FrameType,
  HEADER_BYTES,
  MAX_FRAME_BYTES,
  MAX_PAYLOAD_BYTES,
  readU32,
} from "../../../src/streams/frame.ts";

interface Taken {
  type: number;
  payload: Uint8Array;
}

function decode(chunks: Iterable<Uint8Array>): Taken[] {
  const decoder = new FrameDecoder();
  const frames: Taken[] = [];
  for (const chunk of chunks) {
    for (const { type, payload } of decoder.push(chunk)) frames.push({ type, payload: payload.slice() });
  }
  return frames;
}

const isProtocolError = (error: unknown) => error instanceof SandboxError && error.code === "ERR_PROTOCOL";

test("encodeFrame() lays out type, flags, reserved and big-endian length as docs/protocol.md says", () => {
  assert.deepEqual(
    [...encodeFrame(FrameType.Data, Uint8Array.of(0xaa, 0xbb))],
    [2, 0, 0, 0, 0, 0, 0, 2, 0xaa, 0xbb],
  );
  assert.deepEqual([...encodeFrame(FrameType.Eof)], [4, 0, 0, 0, 0, 0, 0, 0]);
  assert.deepEqual(
    [...encodeFrame(FrameType.Credit, encodeU32(262_144))],
    [3, 0, 0, 0, 0, 0, 0, 4, 0, 4, 0, 0],
  );
  assert.deepEqual(
    [...encodeFrame(FrameType.Resize, encodeSize(300, 50))],
    [6, 0, 0, 0, 0, 0, 0, 4, 1, 44, 0, 50],
  );
  assert.equal(readU32(encodeU32(0xfffffffe), 0), 0xfffffffe);
});

test("encodeFrame() makes frames of at most 16,384 bytes and refuses a larger payload", () => {
  assert.equal(encodeFrame(FrameType.Data, new Uint8Array(MAX_PAYLOAD_BYTES)).length, MAX_FRAME_BYTES);
  assert.throws(() => encodeFrame(FrameType.Data, new Uint8Array(MAX_PAYLOAD_BYTES + 1)), /cannot carry/);
  assert.throws(() => encodeFrame(FrameType.Data), /cannot carry/);
});

test("FrameDecoder finds the same frames wherever the stream is cut in two", () => {
  const frames = [
    { type: FrameType.Open, payload: new Uint8Array(0) },
    { type: FrameType.Credit, payload: encodeU32(7) },
    { type: FrameType.Data, payload: Uint8Array.from(randomBytes(50)) },
    { type: FrameType.Eof, payload: new Uint8Array(0) },
    { type: FrameType.Reset, payload: Uint8Array.of(0x6e, 0x6f) },
  ];
  const bytes = Uint8Array.from(frames.flatMap((frame) => [...encodeFrame(frame.type, frame.payload)]));
  for (let cut = 0; cut <= bytes.length; cut++) {
    assert.deepEqual(decode([bytes.subarray(0, cut), bytes.subarray(cut)]), frames, `cut at ${cut}`);
  }
  assert.deepEqual(decode(Array.from(bytes, (byte) => Uint8Array.of(byte))), frames);
});

test("FrameDecoder finds random frames in randomly cut chunks", () => {
  for (let round = 0; round < 30; round++) {
    const frames = Array.from({ length: 40 }, () => ({
      type: FrameType.Data,
      payload: Uint8Array.from(randomBytes(randomInt(1, randomInt(2, MAX_PAYLOAD_BYTES + 1)))),
    }));
    const bytes = Buffer.concat(frames.map((frame) => encodeFrame(frame.type, frame.payload)));
    const chunks: Uint8Array[] = [];
    for (let at = 0; at < bytes.length; ) {
      const size = randomInt(1, 40_000);
      chunks.push(new Uint8Array(bytes.subarray(at, at + size)));
      at += size;
    }
    assert.deepEqual(decode(chunks), frames);
  }
});

test("FrameDecoder is idle exactly between frames", () => {
  const decoder = new FrameDecoder();
  const frame = encodeFrame(FrameType.Data, Uint8Array.of(1, 2, 3));
  for (let i = 0; i < frame.length; i++) {
    assert.equal(decoder.idle, i === 0);
    for (const _ of decoder.push(frame.subarray(i, i + 1)));
  }
  assert.equal(decoder.idle, true);
});

test("FrameDecoder refuses unknown types, reserved bits and wrong lengths on the header alone", () => {
  const header = (type: number, length: number, flags = 0, reserved = 0) =>
    Uint8Array.of(type, flags, reserved >>> 8, reserved, length >>> 24, length >>> 16, length >>> 8, length);
  const bad = {
    "type 0": header(0, 0),
    "type 8": header(8, 0),
    "type 255": header(255, 0),
    flags: header(2, 1, 1),
    "reserved high": header(2, 1, 0, 0x100),
    "reserved low": header(2, 1, 0, 1),
    "empty DATA": header(2, 0),
    "DATA one byte too long": header(2, MAX_PAYLOAD_BYTES + 1),
    "DATA of 4 GiB": header(2, 0xffffffff),
    "CREDIT of 3 bytes": header(3, 3),
    "CREDIT of 5 bytes": header(3, 5),
    "EOF with payload": header(4, 1),
    "RESIZE of 2 bytes": header(6, 2),
    "EXIT of 0 bytes": header(7, 0),
  };
  for (const [name, bytes] of Object.entries(bad)) {
    assert.equal(bytes.length, HEADER_BYTES);
    assert.throws(() => decode([bytes]), isProtocolError, name);
    assert.throws(() => decode(Array.from(bytes, (byte) => Uint8Array.of(byte))), isProtocolError, name);
  }
});

test("FrameDecoder answers random bytes with frames or ERR_PROTOCOL and nothing else", () => {
  let refused = 0;
  for (let round = 0; round < 2000; round++) {
    const bytes = randomBytes(randomInt(7, 200));
    if (round % 2 === 0) bytes.set([randomInt(1, 8), 0, 0, 0, 0, 0, 0]);
    try {
      for (const frame of decode([bytes])) assert.ok(frame.payload.length <= MAX_PAYLOAD_BYTES);
    } catch (error) {
      assert.ok(isProtocolError(error), String(error));
      refused++;
    }
  }
  assert.ok(refused > 500);
});
