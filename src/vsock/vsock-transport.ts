/** What the shim needs of a way to its guest, and what such a way needs of the shim. */
import type { ByteStream } from "../base/byte-stream.ts";
import type { AsyncReleasable } from "../base/undo.ts";

/** A way to one guest. Disposing it closes listeners and the device and ends the backend, not open connections. */
export interface VsockTransport extends AsyncReleasable {
  /** What QEMU needs. */
  readonly device: VsockDevice;
  /** The host's port that the guest dials for its hello. */
  readonly helloPort: number;
  /** The guest's next connection to the hello port. @throws the signal's reason, ERR_CANCELED when disposed */
  accept(signal: AbortSignal): Promise<ByteStream>;
  /** Connects to a port of the guest. @throws SandboxError ERR_UNAVAILABLE when refused, or the signal's reason */
  dial(port: number, signal: AbortSignal): Promise<ByteStream>;
  /**
   * To be called once QEMU has its own copy of the device's descriptor: while ours were open too, the kernel would
   * keep the guest's connections when QEMU dies. `device.fd` is closed afterwards. Idempotent.
   */
  deviceInherited(): void;
}

export type VsockDevice =
  | { readonly kind: "vhost-vsock"; readonly fd: number; readonly guestCid: number }
  | { readonly kind: "vhost-user-vsock"; readonly socketPath: string };

/** The backend's process, as far as the transport cares. */
export interface BackendProcess extends AsyncReleasable {
  readonly exited: Promise<unknown>;
  /** Resolves with the reason when it ended unasked. */
  readonly crashed: Promise<Error>;
}

export interface VsockTransportInit {
  /** "auto" takes the kernel's where /dev/vhost-vsock can be opened. */
  readonly backend: "auto" | "vhost" | "vhost-user";
  /** Directory (0700) for the sockets of the backend: `v`, `u` and `u_4294967294`. At most 90 bytes long. */
  readonly dir: string;
  /** The vhost-device-vsock program; asked only when it is needed. */
  readonly daemonPath: () => string;
  /** Starts and supervises the program. The transport ends it when disposed. */
  readonly spawn: (name: string, file: string, args: string[]) => Promise<BackendProcess>;
}
