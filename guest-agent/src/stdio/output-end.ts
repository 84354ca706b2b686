/**
 * The reading end of a process's stdout or stderr. Data stays in the pipe until a stream asks for it, so a stalled
 * reader stops only this process's pipe. What a stream has sent is kept until the host's grants tell that it was taken:
 * another stream can then go on from any byte that the host has not got. That is one window (256 KiB) at most.
 */
import * as sys from "sys";
import { SandboxError } from "../../../src/base/errors.ts";
import { ByteRing, MAX_WINDOW_BYTES } from "../../../src/streams/index.ts";
import type { EventLoop, Watch } from "../event-loop.ts";
import { EPOLLIN, FIONREAD } from "../linux.ts";

/** Why a reader gets nothing more: another one came, or the process was deleted. */
export type ReaderEnd = "the stream was opened again" | "the process was deleted";

export class OutputEnd {
  readonly #loop: EventLoop;
  #fd: number | undefined;
  #watch: Watch | undefined;
  #ended = false;
  #reader: OutputReader | undefined;
  /** Read from the pipe and not acknowledged; the first byte is number `#keptFrom` of the output. */
  readonly #kept = new ByteRing(MAX_WINDOW_BYTES);
  #keptFrom = 0;

  constructor(loop: EventLoop) {
    this.#loop = loop;
  }

  /** True when every writer is gone and the pipe is empty, or the process was deleted. */
  get ended(): boolean {
    return this.#ended;
  }

  /** Bytes in all that were read from the pipe. */
  get fetched(): number {
    return this.#keptFrom + this.#kept.length;
  }

  /** Bytes in all that were written to the pipe so far, fetched or not. */
  get written(): number {
    return this.fetched + (this.#fd === undefined ? 0 : unread(this.#fd));
  }

  /** Takes over a non-blocking descriptor. */
  provide(fd: number): void {
    if (this.#ended) {
      sys.close(fd);
      return;
    }
    this.#fd = fd;
    const wanted = this.#reader?.waits === true ? EPOLLIN : 0;
    this.#watch = this.#loop.watch(fd, wanted, () => this.#wake());
  }

  /**
   * Gives the output from byte `from` on to a new reader; the one before is ended.
   * @param onEnd called when another reader comes or the process is deleted, unless detach() was called.
   * @throws SandboxError ERR_INVALID_ARGUMENT when those bytes are gone, or not written yet.
   */
  attach(from: number, onEnd: (reason: ReaderEnd) => void): OutputReader {
    if (from < this.#keptFrom || from > this.fetched) {
      const kept = `${this.#keptFrom} to ${this.fetched}`;
      throw new SandboxError(
        "ERR_INVALID_ARGUMENT",
        `the output from byte ${from} on is not there, only ${kept}`,
      );
    }
    const before = this.#reader;
    this.#watch?.set(0);
    this.#reader = new OutputReader(this, from, onEnd);
    this.acknowledge(from);
    before?.end("the stream was opened again");
    return this.#reader;
  }

  /** Writes bytes from number `at` on into `target`. @returns how many; 0 when there are none yet. For a reader. */
  read(at: number, target: Uint8Array): number {
    if (at < this.fetched) return this.#kept.peek(at - this.#keptFrom, target);
    const count = this.#readPipe(target);
    if (count > 0) this.#kept.push(target.subarray(0, count));
    return count;
  }

  /** The host has the first `count` bytes of the output. */
  acknowledge(count: number): void {
    const dropped = Math.min(count - this.#keptFrom, this.#kept.length);
    if (dropped <= 0) return;
    this.#kept.drop(dropped);
    this.#keptFrom += dropped;
    if (this.#kept.length === 0) this.#kept.clear();
  }

  /** Looks at the pipe for the reader, until something is there. */
  watch(reader: OutputReader): void {
    if (reader === this.#reader) this.#watch?.set(EPOLLIN);
  }

  detach(reader: OutputReader): void {
    if (reader !== this.#reader) return;
    this.#watch?.set(0);
    this.#reader = undefined;
  }

  /** Closes the descriptor; what was not delivered is void. */
  dispose(): void {
    this.#kept.clear();
    this.#finish();
    this.#reader?.end("the process was deleted");
  }

  #readPipe(target: Uint8Array): number {
    if (this.#fd === undefined) return 0;
    let count: number;
    try {
      count = sys.read(this.#fd, target);
    } catch {
      // A pty master answers EIO once the last slave is closed (pty(7)); a pipe has no error to read.
      count = 0;
    }
    if (count === 0) this.#finish();
    return Math.max(0, count);
  }

  #finish(): void {
    this.#ended = true;
    this.#watch?.close();
    this.#watch = undefined;
    if (this.#fd !== undefined) sys.close(this.#fd);
    this.#fd = undefined;
  }

  #wake(): void {
    this.#watch?.set(0);
    this.#reader?.wake();
  }
}

/** One stream's way through the output. */
export class OutputReader {
  readonly #source: OutputEnd;
  readonly #from: number;
  readonly #onEnd: (reason: ReaderEnd) => void;
  #at: number;
  #onReadable: (() => void) | undefined;

  constructor(source: OutputEnd, from: number, onEnd: (reason: ReaderEnd) => void) {
    this.#source = source;
    this.#from = from;
    this.#at = from;
    this.#onEnd = onEnd;
  }

  /** True when there is nothing more to read, now or later. */
  get ended(): boolean {
    return this.#source.ended && this.#at >= this.#source.fetched;
  }

  get waits(): boolean {
    return this.#onReadable !== undefined;
  }

  /**
   * Writes the next bytes into `target`.
   * @returns how many; 0 when there are none yet (see whenReadable) or at the end (see ended).
   */
  read(target: Uint8Array): number {
    const count = this.#source.read(this.#at, target);
    this.#at += count;
    return count;
  }

  /** The host has `count` bytes of what this reader gave. */
  acknowledge(count: number): void {
    this.#source.acknowledge(this.#from + count);
  }

  /** The host has everything that this reader gave. */
  acknowledgeAll(): void {
    this.#source.acknowledge(this.#at);
  }

  /** Calls back once when read() or `ended` may have changed. */
  whenReadable(callback: () => void): void {
    this.#onReadable = callback;
    this.#source.watch(this);
  }

  detach(): void {
    this.#onReadable = undefined;
    this.#source.detach(this);
  }

  /** For the end: something may be there. */
  wake(): void {
    const callback = this.#onReadable;
    this.#onReadable = undefined;
    callback?.();
  }

  /** For the end: nothing more is given to this reader. */
  end(reason: ReaderEnd): void {
    this.#onEnd(reason);
    this.wake();
  }
}

/** Bytes that wait in the pipe or terminal; none in one that can no longer tell. */
function unread(fd: number): number {
  const count = new Int32Array(1);
  try {
    sys.ioctlBuffer(fd, FIONREAD, count.buffer);
  } catch {
    return 0;
  }
  return count[0] ?? 0;
}
