/** Puts frames on a byte stream, one write at a time, in the order of the calls. Portable. */
import type { ByteStream } from "../base/byte-stream.ts";

/** Bytes up to which waiting frames are joined into one write. */
const BATCH_BYTES = 16_384;

export class FrameWriter {
  readonly #stream: ByteStream;
  readonly #onError: (error: unknown) => void;
  #queue: Uint8Array[] = [];
  #queuedBytes = 0;
  #running = false;
  #stopped = false;
  #waiters: { readonly limit: number; readonly resolve: () => void }[] = [];

  /** @param onError called once, when a write failed; nothing is written from then on. */
  constructor(stream: ByteStream, onError: (error: unknown) => void) {
    this.#stream = stream;
    this.#onError = onError;
  }

  /** Bytes accepted by send() that the stream has not taken yet. */
  get queuedBytes(): number {
    return this.#queuedBytes;
  }

  /** Queues a frame. The caller must not change it afterwards. Dropped after a failed write or stop(). */
  send(frame: Uint8Array): void {
    if (this.#stopped) return;
    this.#queue.push(frame);
    this.#queuedBytes += frame.length;
    if (!this.#running) void this.#run();
  }

  /** Resolves once no more than `limit` bytes are queued, or when the writer has stopped. */
  belowBytes(limit: number): Promise<void> {
    if (this.#stopped || this.#queuedBytes <= limit) return Promise.resolve();
    return new Promise((resolve) => this.#waiters.push({ limit, resolve }));
  }

  /** Drops what is queued and takes no more. Idempotent. */
  stop(): void {
    this.#stopped = true;
    this.#queue = [];
    this.#queuedBytes = 0;
    this.#wake();
  }

  async #run(): Promise<void> {
    this.#running = true;
    try {
      while (this.#queue.length > 0) {
        const batch = this.#nextBatch();
        await this.#stream.write(batch);
        if (this.#stopped) return;
        this.#queuedBytes -= batch.length;
        this.#wake();
      }
    } catch (error) {
      if (this.#stopped) return;
      this.stop();
      this.#onError(error);
    } finally {
      this.#running = false;
    }
  }

  #nextBatch(): Uint8Array {
    const first = this.#queue[0] ?? new Uint8Array(0);
    if (this.#queue.length === 1) {
      this.#queue = [];
      return first;
    }
    let count = 1;
    let length = first.length;
    for (let next = this.#queue[count]; next !== undefined; next = this.#queue[count]) {
      if (length + next.length > BATCH_BYTES) break;
      length += next.length;
      count += 1;
    }
    const frames = this.#queue.splice(0, count);
    if (count === 1) return first;
    const batch = new Uint8Array(length);
    let offset = 0;
    for (const frame of frames) {
      batch.set(frame, offset);
      offset += frame.length;
    }
    return batch;
  }

  #wake(): void {
    if (this.#waiters.length === 0) return;
    const waiting = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiting) {
      if (this.#stopped || this.#queuedBytes <= waiter.limit) waiter.resolve();
      else this.#waiters.push(waiter);
    }
  }
}
