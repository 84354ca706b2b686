/**
 * How the shim and its guest reach each other (docs/protocol.md, "Connections"): the kernel's vhost-vsock, or the
 * vhost-device-vsock program where the host kernel has none. The guest cannot tell which.
 */
import { accessSync, constants } from "node:fs";
import { openHybridTransport } from "./hybrid-transport.ts";
import { openVhostTransport, VHOST_VSOCK_DEVICE } from "./vhost-transport.ts";
import type { VsockTransport, VsockTransportInit } from "./vsock-transport.ts";

export type {
  BackendProcess,
  VsockDevice,
  VsockTransport,
  VsockTransportInit,
} from "./vsock-transport.ts";

/**
 * Opens the transport: when it resolves, the hello listener listens and QEMU can be started.
 * @throws SandboxError ERR_HOST, ERR_CONFIG, ERR_EXHAUSTED, ERR_DEADLINE, or the signal's reason.
 */
export async function openVsockTransport(
  init: VsockTransportInit,
  signal: AbortSignal,
): Promise<VsockTransport> {
  signal.throwIfAborted();
  const kernel = init.backend === "vhost" || (init.backend === "auto" && vhostUsable());
  return kernel ? openVhostTransport() : openHybridTransport(init, signal);
}

function vhostUsable(): boolean {
  try {
    accessSync(VHOST_VSOCK_DEVICE, constants.R_OK | constants.W_OK);
    return true;
  } catch {
    return false;
  }
}
