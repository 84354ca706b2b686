/**
 * What the worker and its supervisor share. The input is here before it is decoded: when the worker hangs or dies of it,
 * the supervisor still has it.
 *
 *   int32 0: inputs begun   1: index of the target   2: length of the input   then the input's bytes
 */
const HEADER_INTS = 3;

export class SharedState {
  readonly buffer: SharedArrayBuffer;
  readonly #header: Int32Array;
  readonly #bytes: Uint8Array;

  constructor(buffer: SharedArrayBuffer) {
    this.buffer = buffer;
    this.#header = new Int32Array(buffer, 0, HEADER_INTS);
    this.#bytes = new Uint8Array(buffer, HEADER_INTS * 4);
  }

  static allocate(mostBytes: number): SharedState {
    return new SharedState(new SharedArrayBuffer(HEADER_INTS * 4 + mostBytes));
  }

  /** Worker: `input` of the target with this index comes next. */
  begin(target: number, input: Uint8Array): void {
    const kept = input.subarray(0, this.#bytes.length);
    this.#bytes.set(kept);
    Atomics.store(this.#header, 1, target);
    Atomics.store(this.#header, 2, kept.length);
    Atomics.add(this.#header, 0, 1);
  }

  get begun(): number {
    return Atomics.load(this.#header, 0);
  }

  get target(): number {
    return Atomics.load(this.#header, 1);
  }

  get input(): Uint8Array {
    return Uint8Array.from(this.#bytes.subarray(0, Atomics.load(this.#header, 2)));
  }
}
