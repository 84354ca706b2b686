/**
 * The LZ4 "legacy" frame, the one LZ4 container that the kernel reads (lib/decompress_unlz4.c) and that its build
 * packs the kernel in. Format: lz4_Frame_format.md, section "Legacy frame", and lz4_Block_format.md.
 *
 * A frame is the magic number, then blocks, each a little-endian u32 (compressed bytes) and that many bytes, which
 * yield at most 8 MiB. A block is a sequence of {token, literals, offset, match}: the token's high half counts the
 * literals, its low half the match bytes above 4; a half of 15 goes on in bytes of 255 until a smaller one. The last
 * sequence has literals only.
 */
import { SandboxError } from "../src/base/errors.ts";

/** Little-endian on disk: 02 21 4c 18. */
export const LZ4_LEGACY_MAGIC = 0x184c2102;
const BLOCK_BYTES = 8 << 20;
const MIN_MATCH = 4;
/** A match may not start within the last 12 bytes of a block, and the last 5 are literals (lz4_Block_format.md). */
const MATCH_FREE_TAIL = 12;
const LITERAL_TAIL = 5;
const MAX_OFFSET = 65_535;
const HASH_BITS = 16;

/**
 * The content of a legacy frame.
 * @throws SandboxError ERR_INVALID_ARGUMENT when the bytes are not a whole, valid frame.
 */
export function lz4LegacyDecode(input: Uint8Array): Uint8Array {
  const view = new DataView(input.buffer, input.byteOffset, input.byteLength);
  if (input.length < 4 || view.getUint32(0, true) !== LZ4_LEGACY_MAGIC)
    throw corrupt("no legacy magic number");
  const parts: Uint8Array[] = [];
  const scratch = new Uint8Array(BLOCK_BYTES);
  let at = 4;
  while (at < input.length) {
    if (at + 4 > input.length) throw corrupt("cut within a block's size");
    const size = view.getUint32(at, true);
    at += 4;
    if (size === LZ4_LEGACY_MAGIC) continue; // concatenated frames
    if (size > input.length - at) throw corrupt("cut within a block");
    const length = decodeBlock(input.subarray(at, at + size), scratch);
    parts.push(scratch.slice(0, length));
    at += size;
  }
  return Buffer.concat(parts);
}

/* The hot loop: 50 MB must take well under a second, so it works on indices and avoids calls for short runs. */
function decodeBlock(src: Uint8Array, dst: Uint8Array): number {
  const end = src.length;
  let from = 0;
  let to = 0;
  while (from < end) {
    const token = src[from++] as number;
    let literals = token >> 4;
    if (literals === 15) {
      let more = 255;
      while (more === 255 && from < end) {
        more = src[from++] as number;
        literals += more;
      }
    }
    if (literals > end - from || literals > dst.length - to) throw corrupt("literals run past the block");
    if (literals > 32) dst.set(src.subarray(from, from + literals), to);
    else for (let i = 0; i < literals; i++) dst[to + i] = src[from + i] as number;
    from += literals;
    to += literals;
    if (from === end) return to;
    if (from + 2 > end) throw corrupt("cut within an offset");
    const offset = (src[from] as number) | ((src[from + 1] as number) << 8);
    from += 2;
    let match = (token & 15) + MIN_MATCH;
    if (match === 15 + MIN_MATCH) {
      let more = 255;
      while (more === 255 && from < end) {
        more = src[from++] as number;
        match += more;
      }
    }
    if (offset === 0 || offset > to || match > dst.length - to)
      throw corrupt("a match points outside of the block");
    const source = to - offset;
    if (match > 32 && offset >= match) dst.copyWithin(to, source, source + match);
    else for (let i = 0; i < match; i++) dst[to + i] = dst[source + i] as number;
    to += match;
  }
  throw corrupt("a block ends with a match");
}

/** `input` as a legacy frame: greedy matching, no dependence on anything but the input. */
export function lz4LegacyEncode(input: Uint8Array): Uint8Array {
  const magic = Buffer.alloc(4);
  magic.writeUInt32LE(LZ4_LEGACY_MAGIC);
  const chunks: Uint8Array[] = [magic];
  for (let at = 0; at < input.length; at += BLOCK_BYTES) {
    const block = encodeBlock(input.subarray(at, at + BLOCK_BYTES));
    const size = Buffer.alloc(4);
    size.writeUInt32LE(block.length);
    chunks.push(size, block);
  }
  return Buffer.concat(chunks);
}

function encodeBlock(src: Uint8Array): Uint8Array {
  const view = new DataView(src.buffer, src.byteOffset, src.byteLength);
  const writer = new BlockWriter(src);
  const lastSeen = new Int32Array(1 << HASH_BITS).fill(-1);
  const matchLimit = src.length - LITERAL_TAIL;
  let at = 0;
  while (at < src.length - MATCH_FREE_TAIL) {
    const word = view.getUint32(at, true);
    // Fibonacci hashing: 2654435761 is 2^32 divided by the golden ratio.
    const slot = Math.imul(word, 2_654_435_761) >>> (32 - HASH_BITS);
    const candidate = lastSeen[slot] as number;
    lastSeen[slot] = at;
    if (candidate < 0 || at - candidate > MAX_OFFSET || view.getUint32(candidate, true) !== word) {
      at++;
      continue;
    }
    let length = MIN_MATCH;
    while (at + length < matchLimit && src[candidate + length] === src[at + length]) length++;
    writer.sequence(at, at - candidate, length);
    at += length;
  }
  return writer.finish();
}

/** Collects the sequences of one block; worst case of growth: one byte per 255 literals and a little. */
class BlockWriter {
  readonly #src: Uint8Array;
  readonly #out: Uint8Array;
  #anchor = 0;
  #to = 0;

  constructor(src: Uint8Array) {
    this.#src = src;
    this.#out = new Uint8Array(src.length + Math.ceil(src.length / 255) + 16);
  }

  /** Literals up to `at`, then a match of `length` bytes `offset` bytes back. */
  sequence(at: number, offset: number, length: number): void {
    this.#literals(at, Math.min(length - MIN_MATCH, 15));
    this.#out[this.#to++] = offset & 0xff;
    this.#out[this.#to++] = offset >> 8;
    this.#rest(length - MIN_MATCH);
    this.#anchor = at + length;
  }

  finish(): Uint8Array {
    this.#literals(this.#src.length, 0);
    return this.#out.subarray(0, this.#to);
  }

  #literals(until: number, lowHalf: number): void {
    const count = until - this.#anchor;
    this.#out[this.#to++] = (Math.min(count, 15) << 4) | lowHalf;
    this.#rest(count);
    this.#out.set(this.#src.subarray(this.#anchor, until), this.#to);
    this.#to += count;
  }

  #rest(count: number): void {
    if (count < 15) return;
    let left = count - 15;
    for (; left >= 255; left -= 255) this.#out[this.#to++] = 255;
    this.#out[this.#to++] = left;
  }
}

function corrupt(detail: string): SandboxError {
  return new SandboxError("ERR_INVALID_ARGUMENT", `not a valid LZ4 legacy stream: ${detail}`);
}
