/** A Node Duplex (a unix socket) as a ByteStream. */
import type { Duplex } from "node:stream";
import type { ByteStream } from "../base/byte-stream.ts";
import { SandboxError } from "../base/errors.ts";

/** Wraps `duplex`; the wrapper owns it from then on. */
export function duplexByteStream(duplex: Duplex): ByteStream {
  // Errors reach the reader through the iterator and writers through their callback.
  duplex.on("error", () => undefined);
  return {
    readable: duplex,
    write: (bytes) =>
      new Promise((resolve, reject) => {
        if (duplex.destroyed || duplex.writableEnded) {
          reject(new SandboxError("ERR_UNAVAILABLE", "the connection is closed"));
          return;
        }
        duplex.write(bytes, (error) => (error ? reject(error) : resolve()));
      }),
    end: () => void duplex.end(),
    destroy: (error) => void duplex.destroy(error),
  };
}
