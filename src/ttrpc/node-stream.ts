/** Node sockets and Duplex streams as byte streams. Not portable. */
import type { Duplex } from "node:stream";
import type { ByteStream } from "../base/byte-stream.ts";
import { SandboxError } from "../base/errors.ts";

/** Bytes received but not yet consumed above which the socket is paused. */
const PAUSE_ABOVE_BYTES = 262_144;

/**
 * Adapts a connected socket. The adapter owns it from here on: destroy() is to be called in the end, and errors of
 * the socket surface in `readable` and write() as ERR_UNAVAILABLE.
 *
 * The socket stays open for writing after the peer closed its sending side. A server must create its sockets with
 * `allowHalfOpen: true` when data may arrive before this is called.
 */
export function byteStreamFromSocket(socket: Duplex): ByteStream {
  socket.allowHalfOpen = true;
  const source = new SocketSource(socket);
  return {
    readable: source,
    write: (bytes) =>
      new Promise<void>((resolve, reject) => {
        if (socket.destroyed || !socket.writable) {
          reject(unavailable(source.error));
          return;
        }
        socket.write(bytes, (error) => {
          if (error === undefined || error === null) resolve();
          else reject(unavailable(source.error ?? error));
        });
      }),
    end: () => {
      if (!socket.destroyed) socket.end();
    },
    destroy: (error) => {
      source.stop(error);
      socket.destroy();
    },
  };
}

/** Hands the socket's chunks on as they come: Readable's own iterator would join them, and destroy the socket at EOF. */
class SocketSource implements AsyncIterable<Uint8Array> {
  readonly #socket: Duplex;
  readonly #chunks: Uint8Array[] = [];
  #bytes = 0;
  #ended = false;
  #error: Error | undefined;
  #wake: () => void = () => undefined;

  constructor(socket: Duplex) {
    this.#socket = socket;
    socket.on("data", (chunk: Uint8Array) => {
      this.#chunks.push(chunk);
      this.#bytes += chunk.length;
      if (this.#bytes > PAUSE_ABOVE_BYTES) socket.pause();
      this.#wake();
    });
    socket.on("end", () => this.#finish());
    // Without "end" before it: not the peer's half close, but the end of both directions.
    socket.on("close", () => this.#finish(this.#ended ? undefined : unavailable(undefined)));
    socket.on("error", (error: Error) => this.#finish(error));
    if (socket.destroyed) this.#finish(socket.errored ?? unavailable(undefined));
  }

  get error(): Error | undefined {
    return this.#error;
  }

  /** Drops what was not consumed and ends the iteration, with `error` when given. */
  stop(error?: Error): void {
    this.#chunks.length = 0;
    this.#bytes = 0;
    this.#finish(error);
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array, void, undefined> {
    for (;;) {
      const chunk = this.#chunks.shift();
      if (chunk !== undefined) {
        this.#bytes -= chunk.length;
        if (this.#bytes === 0 && !this.#ended) this.#socket.resume();
        yield chunk;
      } else if (this.#error !== undefined) {
        throw this.#error instanceof SandboxError ? this.#error : unavailable(this.#error);
      } else if (this.#ended) {
        return;
      } else {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    }
  }

  #finish(error?: Error): void {
    this.#ended = true;
    this.#error ??= error;
    this.#wake();
  }
}

function unavailable(cause: Error | undefined): SandboxError {
  return new SandboxError("ERR_UNAVAILABLE", "the socket is closed", { cause });
}
