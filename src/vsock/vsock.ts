/** AF_VSOCK connections (vsock(7)) as Node streams: connect, listen, accept. */
import { errnoOf, SandboxError } from "../base/errors.ts";
import type { AsyncReleasable } from "../base/undo.ts";
import {
  closeFd,
  FdWatcher,
  socketError,
  VMADDR_CID_ANY,
  VMADDR_PORT_ANY,
  type VsockAddress,
  vsockAddress,
  vsockConnect,
  vsockListen,
  vsockPeer,
  vsockSocket,
} from "../native/index.ts";
import { FdAcceptor } from "./fd-acceptor.ts";
import { FdDuplex, type FdDuplexOptions } from "./fd-duplex.ts";

/** One AF_VSOCK connection. */
export class VsockSocket extends FdDuplex {
  readonly remote: VsockAddress;

  /** Takes the descriptor of a connected AF_VSOCK socket. */
  constructor(fd: number, remote: VsockAddress, options: FdDuplexOptions = {}) {
    super(fd, options);
    this.remote = remote;
  }
}

export interface ConnectInit extends VsockAddress, FdDuplexOptions {
  /** Ends the attempt; the promise then rejects with its reason. */
  readonly signal?: AbortSignal;
  /** The kernel's own limit; 0 (default) for its 2 s. */
  readonly timeoutMs?: number;
}

/**
 * Connects to a port of a guest (or, in a guest, of the host, CID 2).
 * @returns a socket that the caller destroys.
 * @throws SandboxError ERR_UNAVAILABLE with the errno as cause (ECONNRESET: nobody listens there, ENODEV: no such
 *   guest, ETIMEDOUT), ERR_UNSUPPORTED when the kernel has no AF_VSOCK.
 */
export async function connect(init: ConnectInit): Promise<VsockSocket> {
  init.signal?.throwIfAborted();
  const fd = openSocket(init.timeoutMs ?? 0);
  try {
    if (!vsockConnect(fd, init)) {
      await becameWritable(fd, init.signal);
      socketError(fd, "connect");
    }
  } catch (cause) {
    closeFd(fd);
    if (init.signal?.aborted === true) throw init.signal.reason;
    const message = `cannot connect to port ${init.port} of vsock CID ${init.cid}`;
    throw new SandboxError("ERR_UNAVAILABLE", message, { cause, fields: { cid: init.cid } });
  }
  return new VsockSocket(fd, { cid: init.cid, port: init.port }, init);
}

export interface ListenInit extends FdDuplexOptions {
  /** Default: any port that is free. */
  readonly port?: number;
  /** Default: every CID that this machine has. */
  readonly cid?: number;
  readonly backlog?: number;
}

/** Listens. The caller disposes the server. @throws SandboxError ERR_HOST, or ERR_UNSUPPORTED without AF_VSOCK. */
export function listen(init: ListenInit = {}): VsockServer {
  const fd = openSocket(0);
  try {
    const wanted = { cid: init.cid ?? VMADDR_CID_ANY, port: init.port ?? VMADDR_PORT_ANY };
    vsockListen(fd, wanted, init.backlog);
    return new VsockServer(fd, init);
  } catch (cause) {
    closeFd(fd);
    throw new SandboxError("ERR_HOST", `cannot listen on vsock port ${init.port ?? "(any)"}`, { cause });
  }
}

/** A listening AF_VSOCK socket. Connections wait in the kernel's backlog until somebody accepts. */
export class VsockServer implements AsyncReleasable {
  readonly address: VsockAddress;
  readonly #acceptor: FdAcceptor;
  readonly #options: FdDuplexOptions;

  /** Takes the descriptor of a listening AF_VSOCK socket, unless it throws. */
  constructor(fd: number, options: FdDuplexOptions = {}) {
    this.address = vsockAddress(fd);
    this.#options = options;
    this.#acceptor = new FdAcceptor(fd);
  }

  /** The next connection. @throws the signal's reason, or SandboxError ERR_CANCELED when the server was closed. */
  async accept(signal: AbortSignal): Promise<VsockSocket> {
    const fd = await this.#acceptor.accept(signal);
    try {
      return new VsockSocket(fd, vsockPeer(fd), this.#options);
    } catch (error) {
      closeFd(fd);
      throw error;
    }
  }

  /** Stops listening; waiting accepts reject. Idempotent. */
  close(): void {
    this.#acceptor.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }
}

function openSocket(timeoutMs: number): number {
  try {
    return vsockSocket(timeoutMs);
  } catch (cause) {
    if (errnoOf(cause) !== "EAFNOSUPPORT") throw cause;
    throw new SandboxError("ERR_UNSUPPORTED", "the kernel has no AF_VSOCK; load its module vsock", { cause });
  }
}

/** Resolves when a connect in progress has an answer. */
function becameWritable(fd: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const watcher = new FdWatcher(fd, { writable: () => settle(resolve) });
    const aborted = () => settle(() => reject(signal?.reason));
    const settle = (then: () => void) => {
      watcher.close();
      signal?.removeEventListener("abort", aborted);
      then();
    };
    signal?.addEventListener("abort", aborted, { once: true });
    watcher.watchWritable(true);
  });
}
