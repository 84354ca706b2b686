/** A Node stream over any non-blocking stream socket's descriptor, of whatever address family. */
import { Duplex } from "node:stream";
import { closeFd, FdWatcher, readFd, shutdownSocket, writeFd } from "../native/index.ts";

/** Bytes read at once, and kept in either direction before back-pressure. */
const CHUNK_BYTES = 65_536;
/** Reads per readiness, so that one busy connection cannot keep the event loop. */
const READS_PER_TURN = 8;

type Callback = (error?: Error | null) => void;

export interface FdDuplexOptions {
  /** Keep the sending side open after the peer ended its own; default false, as in node:net. */
  readonly allowHalfOpen?: boolean;
}

/**
 * Owns the descriptor from the constructor on: destroy() closes it. Errors carry `code`, `errno` and `syscall`.
 * A chunk is written with as few writes as the kernel allows, and never joined with another one.
 */
export class FdDuplex extends Duplex {
  readonly #fd: number;
  readonly #watcher: FdWatcher;
  #buffer: Buffer | undefined;
  #pending: { readonly chunk: Uint8Array; offset: number; readonly done: Callback } | undefined;

  constructor(fd: number, options: FdDuplexOptions = {}) {
    super({
      allowHalfOpen: options.allowHalfOpen ?? false,
      decodeStrings: true,
      readableHighWaterMark: CHUNK_BYTES,
      writableHighWaterMark: CHUNK_BYTES,
    });
    this.#fd = fd;
    try {
      this.#watcher = new FdWatcher(fd, { readable: () => this.#fill(), writable: () => this.#flush() });
    } catch (error) {
      closeFd(fd);
      throw error;
    }
  }

  /** The descriptor, for ioctls and descriptor passing; never close it. */
  get fd(): number {
    return this.#fd;
  }

  /** Lets the process end although this is open. */
  unref(): this {
    this.#watcher.unref();
    return this;
  }

  ref(): this {
    this.#watcher.ref();
    return this;
  }

  override _read(): void {
    this.#watcher.watchReadable(true);
  }

  override _write(chunk: Uint8Array, _encoding: BufferEncoding, done: Callback): void {
    this.#pending = { chunk, offset: 0, done };
    this.#flush();
  }

  override _final(done: Callback): void {
    try {
      shutdownSocket(this.#fd, "write");
      done();
    } catch (error) {
      done(error as Error);
    }
  }

  override _destroy(error: Error | null, done: Callback): void {
    const pending = this.#pending;
    this.#pending = undefined;
    this.#buffer = undefined;
    this.#watcher.close();
    closeFd(this.#fd);
    pending?.done(error ?? new Error("the connection was closed before all was written"));
    done(error);
  }

  #fill(): void {
    try {
      for (let turn = 0; turn < READS_PER_TURN && !this.destroyed; turn++) {
        this.#buffer ??= Buffer.allocUnsafeSlow(CHUNK_BYTES);
        const count = readFd(this.#fd, this.#buffer);
        if (count === "again") return;
        const more = count === 0 ? this.push(null) : this.push(this.#cut(this.#buffer, count));
        if (!more) {
          this.#watcher.watchReadable(false);
          return;
        }
      }
    } catch (error) {
      this.destroy(error as Error);
    }
  }

  /** The first `count` bytes, as a copy when that wastes less than giving the buffer away. */
  #cut(buffer: Buffer, count: number): Buffer {
    if (count < CHUNK_BYTES / 2) return Buffer.from(buffer.subarray(0, count));
    this.#buffer = undefined;
    return buffer.subarray(0, count);
  }

  #flush(): void {
    const pending = this.#pending;
    if (pending === undefined) {
      this.#watcher.watchWritable(false);
      return;
    }
    try {
      while (pending.offset < pending.chunk.length) {
        const count = writeFd(this.#fd, pending.chunk, pending.offset);
        if (count === "again") {
          this.#watcher.watchWritable(true);
          return;
        }
        pending.offset += count;
      }
    } catch (error) {
      this.#pending = undefined;
      this.#watcher.watchWritable(false);
      pending.done(error as Error);
      return;
    }
    this.#pending = undefined;
    this.#watcher.watchWritable(false);
    pending.done();
  }
}
