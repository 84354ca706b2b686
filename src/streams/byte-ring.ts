/** A queue of bytes with a fixed upper size, in one array that grows by doubling. Portable. */
import { SandboxError } from "../base/errors.ts";

const FIRST_BYTES = 4096;

export class ByteRing {
  readonly #limit: number;
  #bytes = new Uint8Array(0);
  #start = 0;
  #length = 0;

  constructor(limitBytes: number) {
    this.#limit = limitBytes;
  }

  get length(): number {
    return this.#length;
  }

  /** Bytes of memory in use. */
  get capacity(): number {
    return this.#bytes.length;
  }

  /** Appends a copy. @throws SandboxError ERR_INTERNAL beyond the limit. */
  push(bytes: Uint8Array): void {
    const needed = this.#length + bytes.length;
    if (needed > this.#limit) throw new SandboxError("ERR_INTERNAL", "a byte queue overflowed its limit");
    if (needed > this.#bytes.length) this.#grow(needed);
    const end = (this.#start + this.#length) % this.#bytes.length;
    const first = Math.min(bytes.length, this.#bytes.length - end);
    this.#bytes.set(bytes.subarray(0, first), end);
    this.#bytes.set(bytes.subarray(first), 0);
    this.#length = needed;
  }

  /** Takes out what lies together, at most `most` bytes, as a copy. Empty when the queue is. */
  take(most: number): Uint8Array {
    const count = Math.min(most, this.#length, this.#bytes.length - this.#start);
    const taken = this.#bytes.slice(this.#start, this.#start + count);
    this.#length -= count;
    this.#start = this.#length === 0 ? 0 : (this.#start + count) % this.#bytes.length;
    return taken;
  }

  /** Copies what lies together from `offset` on into `target`; it stays. @returns how many bytes; 0 beyond the end. */
  peek(offset: number, target: Uint8Array): number {
    const start = this.#length === 0 ? 0 : (this.#start + offset) % this.#bytes.length;
    const count = Math.min(target.length, Math.max(0, this.#length - offset), this.#bytes.length - start);
    target.set(this.#bytes.subarray(start, start + count));
    return count;
  }

  /** Drops the first `count` bytes, or all there are. */
  drop(count: number): void {
    const dropped = Math.min(count, this.#length);
    this.#length -= dropped;
    this.#start = this.#length === 0 ? 0 : (this.#start + dropped) % this.#bytes.length;
  }

  /** Drops all content and gives the memory back. */
  clear(): void {
    this.#bytes = new Uint8Array(0);
    this.#start = 0;
    this.#length = 0;
  }

  #grow(needed: number): void {
    let size = Math.max(this.#bytes.length, FIRST_BYTES);
    while (size < needed) size *= 2;
    const bytes = new Uint8Array(Math.min(size, this.#limit));
    const first = Math.min(this.#length, this.#bytes.length - this.#start);
    bytes.set(this.#bytes.subarray(this.#start, this.#start + first), 0);
    bytes.set(this.#bytes.subarray(0, this.#length - first), first);
    this.#bytes = bytes;
    this.#start = 0;
  }
}
