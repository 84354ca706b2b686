/** The handshake by which vhost-device-vsock connects a unix socket to a port of the guest. */
import net from "node:net";
import { SandboxError } from "../base/errors.ts";

/** "OK " and a port number of at most ten digits, with room to spare. */
const ANSWER_LIMIT_BYTES = 32;

/**
 * Connects to `port` of the guest behind the backend's socket.
 * @returns a paused socket that begins with the guest's first byte; the caller destroys it.
 * @throws SandboxError ERR_UNAVAILABLE when refused, ERR_PROTOCOL for another answer, or the signal's reason.
 */
export function dialHybrid(socketPath: string, port: number, signal: AbortSignal): Promise<net.Socket> {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const socket = net.connect({ path: socketPath, allowHalfOpen: true });
    let answer = Buffer.alloc(0);
    const settle = (then: () => void) => {
      signal.removeEventListener("abort", aborted);
      socket.removeListener("readable", read).removeListener("error", failed);
      socket.removeListener("close", refused).removeListener("end", refused);
      then();
    };
    const fail = (error: unknown) =>
      settle(() => {
        socket.on("error", () => undefined).destroy();
        reject(error);
      });
    const aborted = () => fail(signal.reason);
    const failed = (cause: Error) =>
      fail(new SandboxError("ERR_UNAVAILABLE", `cannot reach port ${port} of the guest`, { cause }));
    const refused = () =>
      fail(new SandboxError("ERR_UNAVAILABLE", `the guest refused a connection to its port ${port}`));
    const read = () => {
      for (let chunk: Buffer | null = socket.read(); chunk !== null; chunk = socket.read()) {
        answer = Buffer.concat([answer, chunk]);
        const end = answer.indexOf("\n");
        if (end >= 0 && /^OK \d+$/.test(answer.toString("latin1", 0, end))) {
          const rest = answer.subarray(end + 1);
          settle(() => {
            socket.pause();
            if (rest.length > 0) socket.unshift(rest);
            resolve(socket);
          });
          return;
        }
        if (end >= 0 || answer.length > ANSWER_LIMIT_BYTES) {
          fail(
            new SandboxError(
              "ERR_PROTOCOL",
              "the vsock backend answered CONNECT with something else than OK",
            ),
          );
          return;
        }
      }
    };
    signal.addEventListener("abort", aborted, { once: true });
    socket.on("readable", read).on("error", failed).on("end", refused).on("close", refused);
    socket.write(`CONNECT ${port}\n`);
  });
}
