/** Node streams as the project's ByteStream. */
import type { Duplex } from "node:stream";
import type { ByteStream } from "../base/byte-stream.ts";

/**
 * Owns `duplex` from here on. Its errors are reported by `readable` and `write`, never as unhandled events. For a
 * socket that closes only one side at a time, make it with `allowHalfOpen`.
 */
export function toByteStream(duplex: Duplex): ByteStream {
  duplex.on("error", () => undefined);
  return {
    readable: { [Symbol.asyncIterator]: () => chunksOf(duplex) },
    write: (bytes) =>
      new Promise((resolve, reject) => {
        duplex.write(bytes, (error) => (error ? reject(error) : resolve()));
      }),
    end: () => void duplex.end(),
    destroy: (error) => void duplex.destroy(error),
  };
}

async function* chunksOf(duplex: Duplex): AsyncGenerator<Uint8Array, void, undefined> {
  try {
    // Stopping to read is not closing: the other direction may go on.
    yield* duplex.iterator({ destroyOnReturn: false }) as AsyncIterable<Uint8Array>;
  } catch (error) {
    // destroy() without an error is an end, not a failure.
    if ((error as { code?: unknown }).code !== "ERR_STREAM_PREMATURE_CLOSE") throw error;
  }
}
