import assert from "node:assert/strict";
import { describe, it } from "node:test";
import {
  FrameDecoder,
  type FrameHeader,
  FrameType,
  HEADER_LENGTH,
  readHeader,
  writeHeader,
} from "../../../src/ttrpc/frame.ts";

interface Seen {
  readonly frames: { readonly header: FrameHeader; readonly data: number[] }[];
  readonly oversize: FrameHeader[];
}

function recorder(maxDataLength?: number): { decoder: FrameDecoder; seen: Seen } {
  const seen: Seen = { frames: [], oversize: [] };
  const sink = {
    onFrame: (header: FrameHeader, data: Uint8Array) => seen.frames.push({ header, data: [...data] }),
    onOversize: (header: FrameHeader) => seen.oversize.push(header),
  };
  return { decoder: new FrameDecoder(sink, maxDataLength), seen };
}

function frame(streamId: number, type: number, flags: number, data: readonly number[]): Uint8Array {
  const bytes = new Uint8Array(HEADER_LENGTH + data.length);
  writeHeader(bytes, { length: data.length, streamId, type, flags });
  bytes.set(data, HEADER_LENGTH);
  return bytes;
}

function join(...parts: Uint8Array[]): Uint8Array {
  return new Uint8Array(Buffer.concat(parts));
}

/** A deterministic generator (mulberry32), so that a failure can be repeated. */
function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

describe("frame header", () => {
  it("has the bytes of PROTOCOL.md: length, stream id, type, flags, big-endian", () => {
    const bytes = new Uint8Array(HEADER_LENGTH);
    writeHeader(bytes, { length: 0x00010203, streamId: 0xa0b0c0d1, type: FrameType.Data, flags: 5 });
    assert.deepEqual([...bytes], [0, 1, 2, 3, 0xa0, 0xb0, 0xc0, 0xd1, 3, 5]);
    assert.deepEqual(readHeader(bytes), { length: 0x00010203, streamId: 0xa0b0c0d1, type: 3, flags: 5 });
  });

  it("is read at any offset of a larger buffer", () => {
    const bytes = new Uint8Array([9, 9, 9, ...frame(7, 1, 0, [42])]).subarray(3);
    assert.deepEqual(readHeader(bytes), { length: 1, streamId: 7, type: 1, flags: 0 });
  });
});

describe("FrameDecoder", () => {
  const three = join(frame(1, 1, 0, [1, 2, 3, 4, 5]), frame(3, 2, 0, []), frame(5, 3, 1, [6]));
  const expected = [
    { header: { length: 5, streamId: 1, type: 1, flags: 0 }, data: [1, 2, 3, 4, 5] },
    { header: { length: 0, streamId: 3, type: 2, flags: 0 }, data: [] },
    { header: { length: 1, streamId: 5, type: 3, flags: 1 }, data: [6] },
  ];

  it("finds the same frames wherever the stream is cut in two", () => {
    for (let cut = 0; cut <= three.length; cut++) {
      const { decoder, seen } = recorder();
      decoder.push(three.subarray(0, cut));
      decoder.push(three.subarray(cut));
      assert.deepEqual(seen.frames, expected, `cut at ${cut}`);
      assert.equal(decoder.atBoundary, true);
    }
  });

  it("finds the same frames in chunks of one byte", () => {
    const { decoder, seen } = recorder();
    for (const byte of three) decoder.push(Uint8Array.of(byte));
    assert.deepEqual(seen.frames, expected);
  });

  it("reports an end inside a frame, at every byte but the boundaries", () => {
    const boundaries = new Set([0, 15, 25, 36]);
    for (let cut = 0; cut <= three.length; cut++) {
      const { decoder } = recorder();
      decoder.push(three.subarray(0, cut));
      if (boundaries.has(cut)) decoder.end();
      else assert.throws(() => decoder.end(), { code: "ERR_PROTOCOL" }, `cut at ${cut}`);
    }
  });

  it("passes data of one chunk on without copying it", () => {
    let data: Uint8Array | undefined;
    const decoder = new FrameDecoder({
      onFrame: (_, bytes) => {
        data = bytes;
      },
      onOversize: () => undefined,
    });
    const chunk = frame(1, 1, 0, [1, 2, 3]);
    decoder.push(chunk);
    assert.equal(data?.buffer, chunk.buffer);
  });

  it("skips the data of an oversize frame, whatever the chunks, and goes on with the next one", () => {
    const stream = join(frame(1, 1, 0, [1, 2, 3, 4, 5]), frame(3, 1, 0, [7]));
    for (let cut = 0; cut <= stream.length; cut++) {
      const { decoder, seen } = recorder(4);
      decoder.push(stream.subarray(0, cut));
      decoder.push(stream.subarray(cut));
      assert.deepEqual(seen.oversize, [{ length: 5, streamId: 1, type: 1, flags: 0 }]);
      assert.deepEqual(seen.frames, [{ header: { length: 1, streamId: 3, type: 1, flags: 0 }, data: [7] }]);
    }
  });

  it("takes exactly the largest length and refuses one byte more", () => {
    const { decoder, seen } = recorder(4);
    decoder.push(frame(1, 1, 0, [1, 2, 3, 4]));
    decoder.push(frame(3, 1, 0, [1, 2, 3, 4, 5]));
    assert.deepEqual(
      seen.frames.map((f) => f.header.streamId),
      [1],
    );
    assert.deepEqual(
      seen.oversize.map((h) => h.streamId),
      [3],
    );
  });

  it("decodes random frames in random chunks to what was sent", () => {
    const next = random(0xca155);
    for (let round = 0; round < 200; round++) {
      const sent: { header: FrameHeader; data: number[] }[] = [];
      const parts: Uint8Array[] = [];
      for (let i = 0; i < 8; i++) {
        const data = Array.from({ length: Math.floor(next() * 40) }, () => Math.floor(next() * 256));
        const header = {
          length: data.length,
          streamId: Math.floor(next() * 2 ** 32),
          type: Math.floor(next() * 256),
          flags: Math.floor(next() * 256),
        };
        sent.push({ header, data });
        parts.push(frame(header.streamId, header.type, header.flags, data));
      }
      const { decoder, seen } = recorder();
      let rest = join(...parts);
      while (rest.length > 0) {
        const size = 1 + Math.floor(next() * 30);
        decoder.push(rest.subarray(0, size));
        rest = rest.subarray(size);
      }
      assert.deepEqual(seen.frames, sent);
    }
  });

  it("never throws on random bytes", () => {
    const next = random(7);
    for (let round = 0; round < 500; round++) {
      const { decoder } = recorder(64);
      for (let i = 0; i < 10; i++) {
        decoder.push(
          Uint8Array.from({ length: Math.floor(next() * 50) }, () =>
            next() < 0.5 ? 0 : Math.floor(next() * 256),
          ),
        );
      }
    }
  });
});
