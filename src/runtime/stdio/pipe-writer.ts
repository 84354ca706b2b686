/** Writing to a pipe of which we hold a descriptor, without blocking. */
import { Socket } from "node:net";
import { SandboxError } from "../../base/errors.ts";

export interface PipeWriter {
  /** Resolves when the pipe took the bytes. @throws ERR_UNAVAILABLE when it is closed or nobody can read it. */
  write(bytes: Uint8Array): Promise<void>;
  /** Closes the descriptor; a pending write rejects. Idempotent. */
  close(): void;
}

/** Takes over the descriptor `fd`. @param name for messages. */
export function pipeWriter(fd: number, name: string): PipeWriter {
  const socket = new Socket({ fd, readable: false, writable: true });
  socket.on("error", () => undefined); // reported to the pending write
  return {
    write: (bytes) =>
      new Promise((resolve, reject) => {
        const gone = (cause?: unknown) =>
          reject(new SandboxError("ERR_UNAVAILABLE", `${name} was closed`, { cause }));
        if (socket.destroyed) return gone();
        // A destroyed socket calls back without an error for what it never wrote.
        socket.write(bytes, (error) => (error || socket.destroyed ? gone(error ?? undefined) : resolve()));
      }),
    close: () => void socket.destroy(),
  };
}
