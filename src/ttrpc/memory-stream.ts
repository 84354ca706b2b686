/** Two byte streams joined in memory, with back-pressure and half close as a unix socket pair has them. Portable. */
import type { ByteStream } from "../base/byte-stream.ts";
import { SandboxError } from "../base/errors.ts";

/** Bytes that may lie unread before write() waits. */
const DEFAULT_CAPACITY = 65_536;

/** One direction. */
class Pipe {
  readonly #capacity: number;
  readonly #chunks: Uint8Array[] = [];
  #bytes = 0;
  #ended = false;
  #readerGone = false;
  #error: Error | undefined;
  #wakeReader: () => void = () => undefined;
  #wakeWriters: (() => void)[] = [];

  constructor(capacity: number) {
    this.#capacity = capacity;
  }

  async write(bytes: Uint8Array): Promise<void> {
    this.#checkWritable();
    // A copy, as a socket makes one: the caller may reuse its buffer.
    if (bytes.length > 0) this.#chunks.push(bytes.slice());
    this.#bytes += bytes.length;
    this.#wakeReader();
    while (this.#bytes > this.#capacity) {
      await new Promise<void>((resolve) => this.#wakeWriters.push(resolve));
      if (this.#readerGone) this.#checkWritable();
    }
  }

  /** No more will be written; what was written stays readable. */
  end(): void {
    this.#ended = true;
    this.#wakeReader();
  }

  /** The reading side is gone: what lies unread is void, writers fail. */
  abandon(error?: Error): void {
    this.#readerGone = true;
    this.#error ??= error;
    this.#chunks.length = 0;
    this.#bytes = 0;
    this.#wakeReader();
    for (const wake of this.#wakeWriters.splice(0)) wake();
  }

  async *read(): AsyncGenerator<Uint8Array, void, undefined> {
    for (;;) {
      const chunk = this.#chunks.shift();
      if (chunk !== undefined) {
        this.#bytes -= chunk.length;
        for (const wake of this.#wakeWriters.splice(0)) wake();
        yield chunk;
      } else if (this.#error !== undefined) {
        throw this.#error;
      } else if (this.#ended || this.#readerGone) {
        return;
      } else {
        await new Promise<void>((resolve) => {
          this.#wakeReader = resolve;
        });
      }
    }
  }

  #checkWritable(): void {
    if (this.#readerGone) {
      throw new SandboxError("ERR_UNAVAILABLE", "the other end of the in-memory stream is closed");
    }
    if (this.#ended) {
      throw new SandboxError("ERR_UNAVAILABLE", "cannot write: this end of the in-memory stream was ended");
    }
  }
}

/**
 * A connected pair. What one end writes, the other reads; destroy() on one end ends the other's reading after what
 * was written before.
 * @param capacity bytes per direction that may lie unread before write() waits.
 */
export function memoryStreamPair(capacity: number = DEFAULT_CAPACITY): [ByteStream, ByteStream] {
  const there = new Pipe(capacity);
  const back = new Pipe(capacity);
  return [memoryEnd(back, there), memoryEnd(there, back)];
}

function memoryEnd(incoming: Pipe, outgoing: Pipe): ByteStream {
  return {
    readable: { [Symbol.asyncIterator]: () => incoming.read() },
    write: (bytes) => outgoing.write(bytes),
    end: () => outgoing.end(),
    destroy: (error) => {
      incoming.abandon(error);
      outgoing.end();
    },
  };
}
