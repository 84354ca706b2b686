/**
 * The writing end of a process's stdin. Bytes are written in order; finish() closes the pipe once all of them are
 * written. When the process no longer reads (EPIPE), further bytes are dropped.
 */
import * as sys from "sys";
import type { EventLoop, Watch } from "../event-loop.ts";
import { EPOLLOUT } from "../linux.ts";

export class InputEnd {
  readonly #loop: EventLoop;
  readonly #queue: { bytes: Uint8Array; readonly done: () => void }[] = [];
  #fd: number | undefined;
  #watch: Watch | undefined;
  #terminal = false;
  #finishing = false;
  #closed = false;
  /** Ends the attached stream when the process is deleted; undefined without a stream. */
  #onDispose: (() => void) | undefined;

  constructor(loop: EventLoop) {
    this.#loop = loop;
  }

  /** True after finish(), dispose(), or when the process closed its end: bytes given now are dropped. */
  get closed(): boolean {
    return this.#closed || this.#finishing;
  }

  /** Takes over a non-blocking descriptor. */
  provide(fd: number, terminal: boolean): void {
    if (this.#closed) {
      sys.close(fd);
      return;
    }
    this.#fd = fd;
    this.#terminal = terminal;
    this.#watch = this.#loop.watch(fd, 0, () => this.#drain());
    this.#drain();
  }

  /**
   * Reserves the end for one stream; false when another one has it.
   * @param onDispose called when the process is deleted before detach().
   */
  attach(onDispose: () => void): boolean {
    if (this.#onDispose !== undefined) return false;
    this.#onDispose = onDispose;
    return true;
  }

  detach(): void {
    this.#onDispose = undefined;
  }

  /** Writes what the pipe takes at once, behind what is queued. @returns how many bytes; all where nobody reads them */
  writeNow(bytes: Uint8Array): number {
    if (this.closed) return bytes.length;
    if (this.#fd === undefined || this.#queue.length > 0) return 0;
    const count = this.#writePipe(this.#fd, bytes);
    if (count !== undefined) return Math.max(0, count);
    this.#close();
    return bytes.length;
  }

  /** Queues bytes; resolves when they were written to the pipe (or dropped, as nobody reads it). */
  write(bytes: Uint8Array): Promise<void> {
    if (this.closed || bytes.length === 0) return Promise.resolve();
    return new Promise((resolve) => {
      this.#queue.push({ bytes, done: resolve });
      if (this.#queue.length === 1) this.#drain();
    });
  }

  /** No more bytes will come: closes the pipe after the queued ones. A terminal stays open: it has no half close. */
  finish(): void {
    if (this.#terminal || this.#finishing) return;
    this.#finishing = true;
    this.#drain();
  }

  /** Closes the descriptor and drops what is queued. */
  dispose(): void {
    this.#finishing = true;
    this.#close();
    this.#onDispose?.();
  }

  #drain(): void {
    if (this.#fd === undefined) return;
    for (let head = this.#queue[0]; head !== undefined; head = this.#queue[0]) {
      const written = this.#writePipe(this.#fd, head.bytes);
      if (written === undefined) {
        this.#close();
        return;
      }
      if (written < 0) {
        this.#watch?.set(EPOLLOUT);
        return;
      }
      head.bytes = head.bytes.subarray(written);
      if (head.bytes.length > 0) continue;
      this.#queue.shift();
      head.done();
    }
    this.#watch?.set(0);
    if (this.#finishing) this.#close();
  }

  /** Bytes written, -1 for "not now", undefined when nobody reads any more. */
  #writePipe(fd: number, bytes: Uint8Array): number | undefined {
    try {
      return sys.write(fd, bytes);
    } catch {
      // EPIPE: the reader is gone. EIO: the terminal's last slave is closed. Either way nobody will read.
      return undefined;
    }
  }

  #close(): void {
    this.#closed = true;
    this.#watch?.close();
    this.#watch = undefined;
    if (this.#fd !== undefined) sys.close(this.#fd);
    this.#fd = undefined;
    for (const { done } of this.#queue.splice(0)) done();
  }
}
