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

  /** Keeps a DATA payload. @throws SandboxError ERR_PROTOCOL when the peer had no credit for it. */
  accept(payload: Uint8Array): void {
    if (payload.length > this.#granted) {
      throw new SandboxError(
        "ERR_PROTOCOL",
        `${payload.length} bytes of data with ${this.#granted} bytes of credit`,
      );
    }
    this.#granted -= payload.length;
    this.#ring.push(payload);
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
