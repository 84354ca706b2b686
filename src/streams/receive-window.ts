/** What one side has received and not yet taken, and the credit that follows from it. Portable. */
import { SandboxError } from "../base/errors.ts";
import { ByteRing } from "./byte-ring.ts";

/** Bytes that a receiver grants ahead of what its consumer has taken, at most (docs/protocol.md). */
export const MAX_WINDOW_BYTES = 262_144;

/** Bytes handed to the consumer at once, at most. */
const CHUNK_BYTES = 65_536;

export class ReceiveWindow {
  readonly #window: number;
  readonly #ring: ByteRing;
  /** Bytes that the peer may still send. */
  #granted = 0;
  /** Bytes that may be granted on top: taken by the consumer, or never granted yet. */
  #free: number;

  /** @param windowBytes 0 … MAX_WINDOW_BYTES; 0 when nothing is to be received. */
  constructor(windowBytes: number) {
    this.#window = Math.min(windowBytes, MAX_WINDOW_BYTES);
    this.#free = this.#window;
    this.#ring = new ByteRing(this.#window);
  }

  get buffered(): number {
    return this.#ring.length;
  }

  /** Bytes of memory in use. */
  get capacity(): number {
    return this.#ring.capacity;
  }

  /** A DATA payload of `length` bytes came. @throws SandboxError ERR_PROTOCOL when the peer had no credit for it. */
  admit(length: number): void {
    if (length > this.#granted) {
      throw new SandboxError("ERR_PROTOCOL", `${length} bytes of data with ${this.#granted} bytes of credit`);
    }
    this.#granted -= length;
  }

  /** Keeps bytes that were admitted, for take(). */
  keep(bytes: Uint8Array): void {
    this.#ring.push(bytes);
  }

  /** `length` bytes that were admitted went to the consumer at once. */
  pass(length: number): void {
    this.#free += length;
  }

  /** What the consumer takes next; undefined when nothing is there. */
  take(): Uint8Array | undefined {
    if (this.#ring.length === 0) return undefined;
    const chunk = this.#ring.take(CHUNK_BYTES);
    this.#free += chunk.length;
    return chunk;
  }

  /** The credit to grant now: all that is free once it is at least half of the window, else 0. Counts as granted. */
  due(): number {
    if (this.#free === 0 || this.#free * 2 < this.#window) return 0;
    const bytes = this.#free;
    this.#free = 0;
    this.#granted += bytes;
    return bytes;
  }

  /** Drops what was not taken. */
  clear(): void {
    this.#ring.clear();
  }
}
