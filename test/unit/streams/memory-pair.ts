/** Two ByteStreams joined in memory, with back-pressure: a write resolves when the other side has taken its bytes. */
import { type ByteStream, written } from "../../../src/base/byte-stream.ts";

interface Chunk {
  readonly bytes: Uint8Array;
  readonly taken: () => void;
  readonly lost: (error: Error) => void;
}

const ignore = () => undefined;

/** One direction. Holds `limitBytes` beyond which writers wait. */
class Pipe {
  readonly #chunks: Chunk[] = [];
  readonly #limit: number;
  #held = 0;
  #ended = false;
  #error: Error | undefined;
  #wake: () => void = () => undefined;
  /** The largest write that was made. */
  largest = 0;

  constructor(limitBytes: number) {
    this.#limit = limitBytes;
  }

  write(bytes: Uint8Array): Promise<void> {
    this.largest = Math.max(this.largest, bytes.length);
    if (this.#ended) return Promise.reject(new Error("closed"));
    const free = this.#held < this.#limit;
    this.#held += bytes.length;
    const add = (kept: Uint8Array, taken: () => void, lost: (error: Error) => void) => {
      this.#chunks.push({ bytes: kept, taken, lost });
      this.#wake();
    };
    if (free) {
      add(bytes.slice(), ignore, ignore);
      return written;
    }
    // Not copied: nobody may change them before they were taken.
    return new Promise((resolve, reject) => add(bytes, resolve, reject));
  }

  end(error?: Error, discard = false): void {
    this.#ended = true;
    this.#error ??= error;
    if (discard) for (const chunk of this.#chunks.splice(0)) chunk.lost(new Error("closed"));
    this.#wake();
  }

  async *read(): AsyncGenerator<Uint8Array, void, undefined> {
    for (;;) {
      const chunk = this.#chunks.shift();
      if (chunk !== undefined) {
        this.#held -= chunk.bytes.length;
        const bytes = chunk.bytes.slice();
        chunk.taken();
        yield bytes;
      } else if (this.#error !== undefined) throw this.#error;
      else if (this.#ended) return;
      else {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    }
  }
}

export interface MemoryStream extends ByteStream {
  readonly destroyed: boolean;
  /** The largest single write made on this side. */
  readonly largestWrite: number;
}

export function memoryPair(limitBytes = 65_536): [MemoryStream, MemoryStream] {
  const there = new Pipe(limitBytes);
  const back = new Pipe(limitBytes);
  return [side(back, there), side(there, back)];
}

function side(incoming: Pipe, outgoing: Pipe): MemoryStream {
  let destroyed = false;
  return {
    get destroyed() {
      return destroyed;
    },
    get largestWrite() {
      return outgoing.largest;
    },
    readable: { [Symbol.asyncIterator]: () => incoming.read() },
    write: (bytes) => outgoing.write(bytes),
    end: () => outgoing.end(),
    destroy: (error) => {
      destroyed = true;
      outgoing.end();
      incoming.end(error, true);
    },
  };
}
