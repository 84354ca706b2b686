/**
 * ttrpc frames. Portable.
 *
 * Primer (containerd/ttrpc PROTOCOL.md, version 1.2). Every message is one frame:
 *
 *     0        4           8      9       10
 *     | length | stream id | type | flags | length bytes of data
 *
 * Integers are big-endian; `length` counts the data alone and is at most 4 MiB. The side that opened the connection
 * is the client; its stream ids are odd and only grow. A unary call is one request frame (flags 0) and one response
 * frame with the same stream id. Streaming calls add data frames. There are no pings, resets or flow control.
 */
import { SandboxError } from "../base/errors.ts";

/** Bytes of a frame header (PROTOCOL.md, "Message Frame"). */
export const HEADER_LENGTH = 10;
/** Largest data length of a frame in bytes (PROTOCOL.md, "Message Frame": 4 MB). */
export const MAX_DATA_LENGTH = 4 << 20;
/** Largest stream id a client may use: ids are odd and 32 bits wide. */
export const MAX_STREAM_ID = 0xffff_ffff;

/** PROTOCOL.md, "Message Types". */
export const FrameType = { Request: 1, Response: 2, Data: 3 } as const;

/** PROTOCOL.md, "Request Flags" and "Data Flags". */
export const FrameFlag = { RemoteClosed: 0x01, RemoteOpen: 0x02, NoData: 0x04 } as const;

export interface FrameHeader {
  /** Bytes of data, as announced. */
  readonly length: number;
  readonly streamId: number;
  /** One of FrameType, or a number this version does not know. */
  readonly type: number;
  readonly flags: number;
}

/** Writes a frame header at the start of `target`, which holds at least HEADER_LENGTH bytes. */
export function writeHeader(target: Uint8Array, header: FrameHeader): void {
  writeUint32(target, 0, header.length);
  writeUint32(target, 4, header.streamId);
  target[8] = header.type;
  target[9] = header.flags;
}

/** The header at `offset`, with at least HEADER_LENGTH bytes behind it. Every bit pattern is a header. */
export function readHeader(source: Uint8Array, offset = 0): FrameHeader {
  return {
    length: readUint32(source, offset),
    streamId: readUint32(source, offset + 4),
    type: source[offset + 8] ?? 0,
    flags: source[offset + 9] ?? 0,
  };
}

// Without a DataView, which costs more than the bytes do where there is no compiler (QuickJS).
function writeUint32(target: Uint8Array, offset: number, value: number): void {
  target[offset] = value >>> 24;
  target[offset + 1] = value >>> 16;
  target[offset + 2] = value >>> 8;
  target[offset + 3] = value;
}

function readUint32(source: Uint8Array, offset: number): number {
  const high = ((source[offset] ?? 0) << 24) | ((source[offset + 1] ?? 0) << 16);
  return (high | ((source[offset + 2] ?? 0) << 8) | (source[offset + 3] ?? 0)) >>> 0;
}

export interface FrameSink {
  /** A whole frame. `data` may be a view into the chunk that was pushed: valid until that chunk is written to. */
  onFrame(header: FrameHeader, data: Uint8Array): void;
  /** A frame over the limit begins; its data will be skipped and the frames after it are read as usual. */
  onOversize(header: FrameHeader): void;
}

const noBytes = new Uint8Array(0);

/**
 * Cuts a byte stream into frames. Data that lies in one chunk is passed on as a view, without a copy; data that is
 * spread over several chunks is copied once, into a buffer of its announced size (at most `maxDataLength`).
 */
export class FrameDecoder {
  readonly #sink: FrameSink;
  readonly #maxDataLength: number;
  readonly #headerBytes = new Uint8Array(HEADER_LENGTH);
  #headerFilled = 0;
  /** The frame whose data is being gathered; undefined while a header is. */
  #header: FrameHeader | undefined;
  #data: Uint8Array = noBytes;
  #dataFilled = 0;
  #bytesToSkip = 0;

  constructor(sink: FrameSink, maxDataLength: number = MAX_DATA_LENGTH) {
    this.#sink = sink;
    this.#maxDataLength = maxDataLength;
  }

  /** True between frames: the stream may end here without losing anything. */
  get atBoundary(): boolean {
    return this.#headerFilled === 0 && this.#header === undefined && this.#bytesToSkip === 0;
  }

  /** Takes the next chunk and calls the sink for each frame that is complete with it. */
  push(chunk: Uint8Array): void {
    let offset = 0;
    while (offset < chunk.length) {
      if (this.#bytesToSkip > 0) {
        const skipped = Math.min(this.#bytesToSkip, chunk.length - offset);
        this.#bytesToSkip -= skipped;
        offset += skipped;
      } else if (this.#header === undefined) {
        offset = this.#takeHeader(chunk, offset);
      } else {
        offset = this.#takeData(this.#header, chunk, offset);
      }
    }
  }

  /** @throws SandboxError ERR_PROTOCOL when the stream ended inside a frame. */
  end(): void {
    if (!this.atBoundary) {
      throw new SandboxError("ERR_PROTOCOL", "the ttrpc connection ended in the middle of a frame");
    }
  }

  #takeHeader(chunk: Uint8Array, offset: number): number {
    if (this.#headerFilled === 0 && chunk.length - offset >= HEADER_LENGTH) {
      this.#begin(readHeader(chunk, offset));
      return offset + HEADER_LENGTH;
    }
    const taken = Math.min(HEADER_LENGTH - this.#headerFilled, chunk.length - offset);
    this.#headerBytes.set(chunk.subarray(offset, offset + taken), this.#headerFilled);
    this.#headerFilled += taken;
    if (this.#headerFilled === HEADER_LENGTH) {
      this.#headerFilled = 0;
      this.#begin(readHeader(this.#headerBytes));
    }
    return offset + taken;
  }

  #begin(header: FrameHeader): void {
    if (header.length > this.#maxDataLength) {
      this.#bytesToSkip = header.length;
      this.#sink.onOversize(header);
    } else if (header.length === 0) {
      this.#sink.onFrame(header, noBytes);
    } else {
      this.#header = header;
    }
  }

  #takeData(header: FrameHeader, chunk: Uint8Array, offset: number): number {
    const available = chunk.length - offset;
    if (this.#dataFilled === 0 && available >= header.length) {
      this.#header = undefined;
      this.#sink.onFrame(header, chunk.subarray(offset, offset + header.length));
      return offset + header.length;
    }
    if (this.#dataFilled === 0) this.#data = new Uint8Array(header.length);
    const taken = Math.min(header.length - this.#dataFilled, available);
    this.#data.set(chunk.subarray(offset, offset + taken), this.#dataFilled);
    this.#dataFilled += taken;
    if (this.#dataFilled === header.length) {
      const data = this.#data;
      this.#header = undefined;
      this.#data = noBytes;
      this.#dataFilled = 0;
      this.#sink.onFrame(header, data);
    }
    return offset + taken;
  }
}
