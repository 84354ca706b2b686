/** Sending descriptors to QEMU over its QMP socket. */
import { SandboxError } from "../../base/errors.ts";
import { sendWithFds } from "../../native/index.ts";

/**
 * Sends `bytes` with `fds` attached to their first byte (SCM_RIGHTS).
 * @throws SandboxError ERR_UNAVAILABLE when the socket's buffer is full: QEMU stopped reading long ago.
 */
export async function sendFds(socketFd: number, bytes: Uint8Array, fds: readonly number[]): Promise<void> {
  let attached = fds;
  for (let rest = bytes; rest.byteLength > 0; ) {
    const sent = sendWithFds(socketFd, rest, attached);
    if (sent === "again") throw new SandboxError("ERR_UNAVAILABLE", "QEMU does not read its QMP socket");
    rest = rest.subarray(sent);
    attached = [];
  }
}
