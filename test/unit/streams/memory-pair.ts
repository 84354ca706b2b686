/** Two ByteStreams joined in memory, with back-pressure: a write resolves when the other side has taken its bytes. */
import type { ByteStream } from "../../../src/base/byte-stream.ts";

interface Chunk {
  readonly bytes: Uint8Array;
  readonly taken: () => void;
  readonly lost: (error: Error) => void;
}

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
    return new Promise((resolve, reject) => {
      if (this.#ended) {
        reject(new Error("closed"));
        return;
      }
      const free = this.#held < this.#limit;
      this.#held += bytes.length;
      this.#chunks.push({ bytes: bytes.slice(), taken: free ? () => undefined : resolve, lost: reject });
      if (free) resolve();
      this.#wake();
    });
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
        chunk.taken();
        yield chunk.bytes;
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
