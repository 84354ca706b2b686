/**
 * The reading end of a process's stdout or stderr. Data stays in the pipe until a stream asks for it, so a stalled
 * reader stops only this process's pipe. A chunk that was read but not yet written to a connection stays here and is
 * the first that the next stream gets.
 */
import * as sys from "sys";
import type { EventLoop, Watch } from "../event-loop.ts";
import { EPOLLIN, FIONREAD } from "../linux.ts";

export class OutputEnd {
  readonly #loop: EventLoop;
  #fd: number | undefined;
  #watch: Watch | undefined;
  #ended = false;
  /** Ends the attached stream when the process is deleted; undefined without a stream. */
  #onDispose: (() => void) | undefined;
  /** Read from the pipe, not yet confirmed by taken(). */
  #held: Uint8Array | undefined;
  /** Bytes confirmed by taken(). */
  #delivered = 0;
  #onReadable: (() => void) | undefined;

  constructor(loop: EventLoop) {
    this.#loop = loop;
  }

  /** True when everything was delivered and every writer is gone (or the process was deleted). */
  get ended(): boolean {
    return this.#ended && this.#held === undefined;
  }

  /** Bytes in all that were written to the pipe so far, delivered or not. */
  get written(): number {
    return this.#delivered + (this.#held?.length ?? 0) + (this.#fd === undefined ? 0 : unread(this.#fd));
  }

  /** Takes over a non-blocking descriptor. */
  provide(fd: number): void {
    if (this.#ended) {
      sys.close(fd);
      return;
    }
    this.#fd = fd;
    this.#watch = this.#loop.watch(fd, this.#onReadable === undefined ? 0 : EPOLLIN, () => this.#wake());
  }

  /**
   * Reserves the end for one stream; false when another one has it.
   * @param onDispose called when the process is deleted before release() or detach().
   */
  attach(onDispose: () => void): boolean {
    if (this.#onDispose !== undefined) return false;
    this.#onDispose = onDispose;
    return true;
  }

  /** The attached stream has delivered everything: deleting the process does not concern it any more. */
  release(): void {
    if (this.#onDispose !== undefined) this.#onDispose = () => undefined;
  }

  detach(): void {
    this.#onDispose = undefined;
    this.#onReadable = undefined;
    this.#watch?.set(0);
  }

  /**
   * The next bytes, at most `limit`, or undefined when there are none yet (see whenReadable) or at the end (see
   * ended). They count as delivered only after taken().
   */
  read(limit: number): Uint8Array | undefined {
    if (this.#held === undefined) this.#held = this.#readPipe(limit);
    if (this.#held === undefined || this.#held.length <= limit) return this.#held;
    return this.#held.subarray(0, limit);
  }

  /** `count` bytes of the last read() were delivered. */
  taken(count: number): void {
    const held = this.#held;
    if (held === undefined) return;
    this.#delivered += Math.min(count, held.length);
    this.#held = count >= held.length ? undefined : held.subarray(count);
  }

  /** Calls back once when read() or `ended` may have changed. */
  whenReadable(callback: () => void): void {
    this.#onReadable = callback;
    this.#watch?.set(EPOLLIN);
  }

  /** Closes the descriptor; what was not delivered is void. */
  dispose(): void {
    this.#held = undefined;
    this.#finish();
    this.#onDispose?.();
    this.#wake();
  }

  #readPipe(limit: number): Uint8Array | undefined {
    if (this.#fd === undefined) return undefined;
    const bytes = new Uint8Array(limit);
    let count: number;
    try {
      count = sys.read(this.#fd, bytes);
    } catch {
      // A pty master answers EIO once the last slave is closed (pty(7)); a pipe has no error to read.
      count = 0;
    }
    if (count < 0) return undefined;
    if (count === 0) {
      this.#finish();
      return undefined;
    }
    return count === limit ? bytes : bytes.subarray(0, count);
  }

  #finish(): void {
    this.#ended = true;
    this.#watch?.close();
    this.#watch = undefined;
    if (this.#fd !== undefined) sys.close(this.#fd);
    this.#fd = undefined;
  }

  #wake(): void {
    const callback = this.#onReadable;
    this.#onReadable = undefined;
    this.#watch?.set(0);
    callback?.();
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
