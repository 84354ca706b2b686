/** A seeded sequence of numbers (George Marsaglia's xorshift, 32 bits), so that every run can be repeated. */
export class Random {
  #state: number;

  constructor(seed: number) {
    // The all-zero state stays zero; nearby seeds shall not begin alike.
    this.#state = Math.imul(seed ^ 0x9e37_79b9, 0x85eb_ca6b) | 1;
    for (let i = 0; i < 8; i++) this.next();
  }

  /** 0 … 2^32-1. */
  next(): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x;
    return x >>> 0;
  }

  /** 0 … limit-1; 0 for a limit of 0. */
  below(limit: number): number {
    return limit <= 0 ? 0 : this.next() % limit;
  }

  /** True once in `times`. */
  oneIn(times: number): boolean {
    return this.below(times) === 0;
  }

  /** One of `items`. Preconditions: there is one. */
  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)] as T;
  }

  bytes(length: number): Uint8Array {
    return Uint8Array.from({ length }, () => this.next() & 0xff);
  }

  /** `bytes` in pieces of random size, as a connection may deliver them. */
  pieces(bytes: Uint8Array): Uint8Array[] {
    // Not so many that the connection itself is what takes the time.
    const most = this.pick([1, 3, 16, 1024, 65_536]) + (bytes.length >> 8);
    const pieces: Uint8Array[] = [];
    for (let at = 0; at < bytes.length; ) {
      const end = Math.min(bytes.length, at + 1 + this.below(most));
      pieces.push(bytes.slice(at, end));
      at = end;
    }
    return pieces;
  }
}
