/**
 * Stream frames (docs/protocol.md, "Stream frames"): an 8-byte header and a payload.
 *
 *   0      1       2          4                8
 *   | type | flags | reserved | length, u32 BE | payload
 *
 * A whole frame is at most 16,384 bytes. Portable: no node: module, no Buffer.
 */
import { SandboxError } from "../base/errors.ts";

export const FrameType = {
  Open: 1,
  Data: 2,
  Credit: 3,
  Eof: 4,
  Reset: 5,
  Resize: 6,
  Exit: 7,
} as const;
export type FrameType = (typeof FrameType)[keyof typeof FrameType];

/** Bytes of a header, of a whole frame at most, and of a payload at most. */
export const HEADER_BYTES = 8;
export const MAX_FRAME_BYTES = 16_384;
export const MAX_PAYLOAD_BYTES = MAX_FRAME_BYTES - HEADER_BYTES;

export interface Frame {
  readonly type: FrameType;
  /** Valid until the decoder is asked for the next frame; copy what is to be kept. */
  readonly payload: Uint8Array;
}

/** Least and most payload bytes of each type. */
const PAYLOAD_LIMITS: Readonly<Record<FrameType, readonly [number, number]>> = {
  [FrameType.Open]: [0, MAX_PAYLOAD_BYTES],
  [FrameType.Data]: [1, MAX_PAYLOAD_BYTES],
  [FrameType.Credit]: [4, 4],
  [FrameType.Eof]: [0, 0],
  [FrameType.Reset]: [0, MAX_PAYLOAD_BYTES],
  [FrameType.Resize]: [4, 4],
  [FrameType.Exit]: [4, 4],
};

const EMPTY = new Uint8Array(0);

/** A whole frame, to be written in one write. Preconditions: the payload's size is allowed for the type. */
export function encodeFrame(type: FrameType, payload: Uint8Array = EMPTY): Uint8Array {
  const [least, most] = PAYLOAD_LIMITS[type];
  if (payload.length < least || payload.length > most) {
    throw new SandboxError("ERR_INTERNAL", `a frame of type ${type} cannot carry ${payload.length} bytes`);
  }
  const frame = new Uint8Array(HEADER_BYTES + payload.length);
  writeHeader(frame, type, payload.length);
  frame.set(payload, HEADER_BYTES);
  return frame;
}

/** Writes the header of a frame whose payload of `length` bytes stands behind it. Preconditions: as for encodeFrame(). */
export function writeHeader(frame: Uint8Array, type: FrameType, length: number): void {
  frame[0] = type;
  frame.fill(0, 1, 4);
  writeU32(frame, 4, length);
}

/** Writes `value` (0 … 2^32-1) big-endian. */
export function writeU32(bytes: Uint8Array, offset: number, value: number): void {
  bytes[offset] = value >>> 24;
  bytes[offset + 1] = value >>> 16;
  bytes[offset + 2] = value >>> 8;
  bytes[offset + 3] = value;
}

/** Reads 32 bits big-endian. Preconditions: they are there. */
export function readU32(bytes: Uint8Array, offset: number): number {
  const high = ((bytes[offset] ?? 0) << 24) | ((bytes[offset + 1] ?? 0) << 16);
  return (high | ((bytes[offset + 2] ?? 0) << 8) | (bytes[offset + 3] ?? 0)) >>> 0;
}

/** Payload of a CREDIT or EXIT frame. */
export function encodeU32(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  writeU32(bytes, 0, value);
  return bytes;
}

/** Payload of a RESIZE frame; both 0 … 65535. */
export function encodeSize(columns: number, rows: number): Uint8Array {
  return Uint8Array.of(columns >>> 8, columns, rows >>> 8, rows);
}

/**
 * Cuts a byte stream into frames. Holds at most one incomplete frame. The limits are checked on the header, so nothing
 * is gathered for a frame that will be refused.
 */
export class FrameDecoder {
  readonly #header = new Uint8Array(HEADER_BYTES);
  #headerLength = 0;
  #type: FrameType = FrameType.Data;
  /** Payload bytes of the frame whose header is complete. */
  #expected = 0;
  /** Those that already came, when the payload is spread over chunks. */
  #gathered = 0;
  #payload = EMPTY;

  /** True between frames: the stream may end here. */
  get idle(): boolean {
    return this.#headerLength === 0;
  }

  /**
   * The frames that `chunk` completes. Take them all before the next chunk.
   * @throws SandboxError ERR_PROTOCOL at an unknown type, a wrong length or a reserved bit; the decoder is void then.
   */
  *push(chunk: Uint8Array): Generator<Frame, void, undefined> {
    let offset = 0;
    while (offset < chunk.length) {
      if (this.#headerLength < HEADER_BYTES) {
        offset += this.#takeHeader(chunk, offset);
        if (this.#headerLength < HEADER_BYTES) return;
      }
      const payload = this.#takePayload(chunk, offset);
      if (payload === undefined) return;
      offset += this.#expected - this.#gathered;
      this.#headerLength = 0;
      this.#gathered = 0;
      yield { type: this.#type, payload };
    }
  }

  #takeHeader(chunk: Uint8Array, offset: number): number {
    const count = Math.min(HEADER_BYTES - this.#headerLength, chunk.length - offset);
    this.#header.set(chunk.subarray(offset, offset + count), this.#headerLength);
    this.#headerLength += count;
    if (this.#headerLength === HEADER_BYTES) this.#checkHeader();
    return count;
  }

  #checkHeader(): void {
    const [type, flags, high, low] = this.#header;
    const limits = (PAYLOAD_LIMITS as Record<number, readonly [number, number] | undefined>)[type ?? 0];
    if (limits === undefined) throw new SandboxError("ERR_PROTOCOL", `unknown stream frame type ${type}`);
    if (flags !== 0 || high !== 0 || low !== 0) {
      throw new SandboxError("ERR_PROTOCOL", "a stream frame has flags or reserved bits set");
    }
    const length = readU32(this.#header, 4);
    if (length < limits[0] || length > limits[1]) {
      throw new SandboxError("ERR_PROTOCOL", `a stream frame of type ${type} cannot have ${length} bytes`);
    }
    this.#type = type as FrameType; // it has limits
    this.#expected = length;
  }

  /** The whole payload, or undefined after keeping what there is. `#gathered` then counts what came before. */
  #takePayload(chunk: Uint8Array, offset: number): Uint8Array | undefined {
    const missing = this.#expected - this.#gathered;
    const here = chunk.subarray(offset, offset + missing);
    if (this.#gathered === 0 && here.length === missing) return here;
    if (this.#payload.length === 0) this.#payload = new Uint8Array(MAX_PAYLOAD_BYTES);
    this.#payload.set(here, this.#gathered);
    if (here.length === missing) return this.#payload.subarray(0, this.#expected);
    this.#gathered += here.length;
    return undefined;
  }
}
