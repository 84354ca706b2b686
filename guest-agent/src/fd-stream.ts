/**
 * A connected socket of the agent (AF_VSOCK or AF_UNIX) as a ByteStream. Owns the descriptor.
 *
 * Writes go out in order, at most WRITE_LIMIT bytes per call (docs/protocol.md, "Stream frames"), and wait while the
 * socket is full. Reads happen only while a consumer waits.
 */
import * as sys from "sys";
import { type ByteStream, written } from "../../src/base/byte-stream.ts";
import { SandboxError } from "../../src/base/errors.ts";
import type { EventLoop, Watch } from "./event-loop.ts";
import { EPOLLIN, EPOLLOUT, SHUT_WR } from "./linux.ts";

/** Bytes per write: vhost-device-vsock stalls for ever on larger ones. */
const WRITE_LIMIT = 16_384;
const READ_LIMIT = 65_536;

/**
 * After our last byte the socket stays open until the peer has closed too, for at most this long and this many bytes:
 * closing with unread data, or under the peer's next write, makes the peer lose what it has not read yet (a RESET with
 * its reason).
 */
const LINGER_MS = 1_000;
const LINGER_BYTES = 1 << 20;

interface PendingWrite {
  bytes: Uint8Array;
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
}

interface PendingRead {
  readonly resolve: (result: IteratorResult<Uint8Array, undefined>) => void;
  readonly reject: (error: Error) => void;
}

export class FdStream implements ByteStream {
  /** All streams share it: what was read is copied out at its true size, before anything else runs. */
  static readonly #scratch = new Uint8Array(READ_LIMIT);

  readonly readable: AsyncIterable<Uint8Array>;
  readonly #loop: EventLoop;
  readonly #watch: Watch;
  readonly #writes: PendingWrite[] = [];
  #fd: number;
  #reader: PendingRead | undefined;
  /** Whether epoll watches for what comes in: it goes on between reads, until there is something that nobody waits for. */
  #listening = false;
  /** The last read took all there was: the next one waits to be told. */
  #drained = false;
  #sendingEnded = false;
  #readEnded = false;
  #error: Error | undefined;

  /** @param fd a non-blocking connected socket. */
  constructor(loop: EventLoop, fd: number) {
    this.#loop = loop;
    this.#fd = fd;
    this.#watch = loop.watch(fd, 0, (events) => this.#ready(events));
    const iterator: AsyncIterator<Uint8Array, undefined> = {
      next: () => this.#next(),
      return: () => Promise.resolve({ done: true, value: undefined }),
    };
    this.readable = { [Symbol.asyncIterator]: () => iterator };
  }

  write(bytes: Uint8Array): Promise<void> {
    if (this.#fd < 0 || this.#sendingEnded) {
      return Promise.reject(this.#error ?? new SandboxError("ERR_UNAVAILABLE", "the connection is closed"));
    }
    let rest = bytes;
    if (this.#writes.length === 0) {
      try {
        rest = this.#writeSome(bytes);
      } catch (error) {
        this.destroy(error as Error);
        return Promise.reject(error);
      }
      if (rest.length === 0) return written;
    }
    return new Promise((resolve, reject) => {
      this.#writes.push({ bytes: rest, resolve, reject });
      if (this.#writes.length === 1) this.#flush();
    });
  }

  end(): void {
    this.#sendingEnded = true;
    if (this.#writes.length === 0) this.#shutdownSending();
  }

  destroy(error?: Error): void {
    if (this.#fd < 0) return;
    this.#error ??= error;
    this.#watch.close();
    if (error === undefined && !this.#readEnded && this.#writes.length === 0) linger(this.#loop, this.#fd);
    else sys.close(this.#fd);
    this.#fd = -1;
    const failure = this.#error ?? new SandboxError("ERR_UNAVAILABLE", "the connection was closed");
    for (const write of this.#writes.splice(0)) write.reject(failure);
    const reader = this.#reader;
    this.#reader = undefined;
    if (error === undefined) reader?.resolve({ done: true, value: undefined });
    else reader?.reject(error);
  }

  #next(): Promise<IteratorResult<Uint8Array, undefined>> {
    return new Promise((resolve, reject) => {
      this.#reader = { resolve, reject };
      if (this.#drained && this.#fd >= 0 && !this.#readEnded) this.#setInterest();
      else this.#fill();
    });
  }

  /** Gives the waiting reader what the socket has, or goes on waiting. */
  #fill(): void {
    const reader = this.#reader;
    if (reader === undefined) return;
    if (this.#fd < 0 || this.#readEnded) {
      this.#reader = undefined;
      if (this.#error !== undefined) reader.reject(this.#error);
      else reader.resolve({ done: true, value: undefined });
      return;
    }
    let count: number;
    try {
      count = sys.read(this.#fd, FdStream.#scratch);
    } catch (error) {
      this.destroy(error as Error);
      return;
    }
    if (count < 0) {
      this.#setInterest();
      return;
    }
    this.#reader = undefined;
    this.#drained = count < READ_LIMIT;
    if (count === 0) {
      this.#readEnded = true;
      reader.resolve({ done: true, value: undefined });
    } else {
      reader.resolve({ done: false, value: FdStream.#scratch.slice(0, count) });
    }
  }

  #flush(): void {
    for (let head = this.#writes[0]; head !== undefined; head = this.#writes[0]) {
      const before = head.bytes.length;
      try {
        head.bytes = this.#writeSome(head.bytes);
      } catch (error) {
        this.destroy(error as Error);
        return;
      }
      if (head.bytes.length === before && before > 0) {
        this.#setInterest();
        return;
      }
      if (head.bytes.length > 0) continue;
      this.#writes.shift();
      head.resolve();
    }
    if (this.#sendingEnded) this.#shutdownSending();
    this.#setInterest();
  }

  /** One call; what is left to write, all of it while the socket is full. */
  #writeSome(bytes: Uint8Array): Uint8Array {
    const count = sys.write(this.#fd, bytes, 0, Math.min(bytes.length, WRITE_LIMIT));
    return count > 0 ? bytes.subarray(count) : bytes;
  }

  #ready(events: number): void {
    // Errors and hang-ups show up in the read or write that they make fail.
    if (this.#writes.length > 0 && (events & ~EPOLLIN) !== 0) this.#flush();
    if ((events & ~EPOLLOUT) !== 0) {
      this.#drained = false;
      if (this.#reader === undefined) this.#listening = false;
      else this.#fill();
    }
    this.#setInterest();
  }

  #setInterest(): void {
    if (this.#fd < 0) return;
    if (this.#reader !== undefined) this.#listening = true;
    this.#watch.set((this.#listening ? EPOLLIN : 0) | (this.#writes.length === 0 ? 0 : EPOLLOUT));
  }

  #shutdownSending(): void {
    if (this.#fd < 0) return;
    try {
      sys.shutdown(this.#fd, SHUT_WR);
    } catch {
      // ENOTCONN: the peer is gone already.
    }
  }
}

/** Discards what still comes and closes the socket once the peer has, or when it was enough. */
function linger(loop: EventLoop, fd: number): void {
  const buffer = new Uint8Array(4096);
  let discarded = 0;
  const close = () => {
    watch.close();
    loop.clearTimer(timer);
    sys.close(fd);
  };
  const timer = loop.setTimer(LINGER_MS, close);
  const watch = loop.watch(fd, EPOLLIN, () => {
    let count: number;
    try {
      count = sys.read(fd, buffer);
    } catch {
      count = 0; // reset by the peer
    }
    discarded += count;
    if (count === 0 || discarded > LINGER_BYTES) close();
  });
}
