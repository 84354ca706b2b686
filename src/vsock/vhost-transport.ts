/** The kernel's vhost-vsock: the guest has a CID of this host's space, and both sides speak AF_VSOCK. */
import { randomInt } from "node:crypto";
import { constants } from "node:fs";
import type { ByteStream } from "../base/byte-stream.ts";
import { SandboxError } from "../base/errors.ts";
import { closeFd, openNonBlocking, vhostVsockSetCid } from "../native/index.ts";
import { toByteStream } from "./byte-stream.ts";
import { connect, listen, type VsockServer } from "./vsock.ts";
import type { VsockTransport } from "./vsock-transport.ts";

export const VHOST_VSOCK_DEVICE = "/dev/vhost-vsock";

/** 0, 1 and 2 are reserved and 2^32-1 means any (include/uapi/linux/vm_sockets.h). */
const FIRST_CID = 3;
const LAST_CID = 0xffff_fffe;

/** CIDs tried before giving up. With n guests on the host one try fails with a chance of n / 2^32. */
const CID_TRIES = 64;

/** A guest under software emulation can take longer than the kernel's 2 s; the caller's signal ends it before this. */
const CONNECT_LIMIT_MS = 30_000;

/** Connections from anybody but our guest, closed in a row before an accept fails. */
const STRANGERS = 256;

/** @throws SandboxError ERR_HOST when the device cannot be opened, ERR_EXHAUSTED when no CID was free. */
export function openVhostTransport(): VsockTransport {
  const fd = openDevice();
  try {
    const guestCid = reserveCid((cid) => vhostVsockSetCid(fd, cid));
    return new VhostTransport(fd, guestCid, listen({ allowHalfOpen: true }));
  } catch (error) {
    closeFd(fd);
    throw error;
  }
}

function openDevice(): number {
  try {
    return openNonBlocking(VHOST_VSOCK_DEVICE, constants.O_RDWR);
  } catch (cause) {
    throw new SandboxError(
      "ERR_HOST",
      `cannot open ${VHOST_VSOCK_DEVICE}: load the module vhost_vsock, or set vsock_backend = "vhost-user"`,
      { cause, fields: { path: VHOST_VSOCK_DEVICE } },
    );
  }
}

/** A CID that `claim` took. Starts anywhere, so that shims that start together do not try the same ones. */
export function reserveCid(
  claim: (cid: number) => boolean,
  first = randomInt(FIRST_CID, LAST_CID + 1),
): number {
  let cid = first;
  for (let attempt = 0; attempt < CID_TRIES; attempt++) {
    if (claim(cid)) return cid;
    cid = cid === LAST_CID ? FIRST_CID : cid + 1;
  }
  throw new SandboxError("ERR_EXHAUSTED", `no free vsock CID among ${CID_TRIES} tried from ${first} on`);
}

class VhostTransport implements VsockTransport {
  readonly device: { readonly kind: "vhost-vsock"; readonly fd: number; readonly guestCid: number };
  readonly helloPort: number;
  readonly #server: VsockServer;
  #deviceOpen = true;

  constructor(fd: number, guestCid: number, server: VsockServer) {
    this.device = { kind: "vhost-vsock", fd, guestCid };
    this.helloPort = server.address.port;
    this.#server = server;
  }

  async accept(signal: AbortSignal): Promise<ByteStream> {
    for (let stranger = 0; stranger < STRANGERS; stranger++) {
      const socket = await this.#server.accept(signal);
      if (socket.remote.cid === this.device.guestCid) return toByteStream(socket);
      // Any guest of this host can dial any port of it.
      socket.destroy();
    }
    throw new SandboxError(
      "ERR_EXHAUSTED",
      "other virtual machines of this host keep dialling the hello port",
    );
  }

  async dial(port: number, signal: AbortSignal): Promise<ByteStream> {
    const cid = this.device.guestCid;
    return toByteStream(
      await connect({ cid, port, signal, timeoutMs: CONNECT_LIMIT_MS, allowHalfOpen: true }),
    );
  }

  deviceInherited(): void {
    if (!this.#deviceOpen) return;
    this.#deviceOpen = false;
    closeFd(this.device.fd);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.close();
    this.deviceInherited();
  }
}
