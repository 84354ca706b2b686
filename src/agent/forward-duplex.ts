/** A framed stream as Node's Duplex, both directions ending on their own. */
import { Duplex } from "node:stream";
import type { FramedStream } from "../streams/index.ts";

/** Owns `stream`. Destroying the Duplex before both directions have ended resets it. */
export class ForwardDuplex extends Duplex {
  readonly #stream: FramedStream;
  readonly #chunks: AsyncIterator<Uint8Array>;

  constructor(stream: FramedStream) {
    super({ allowHalfOpen: true });
    this.#stream = stream;
    this.#chunks = stream.readable[Symbol.asyncIterator]();
  }

  override _read(): void {
    this.#chunks.next().then(
      (result) => this.push(result.done === true ? null : result.value),
      (error: Error) => this.destroy(error),
    );
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.#stream.send(chunk).then(() => done(), done);
  }

  override _final(done: (error?: Error | null) => void): void {
    this.#stream.sendEof().then(() => done(), done);
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    // Does nothing when both directions have ended.
    this.#stream.reset("");
    done(error);
  }
}
