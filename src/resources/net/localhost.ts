/**
 * Connections made inside a pod's namespace, handed to the guest. `kubectl port-forward` and probes dial 127.0.0.1:N in
 * the namespace, where nothing of the pod listens, because the pod is in the microVM. One listener takes all of them,
 * on every port, and relays each to the same port of the guest's own loopback.
 *
 * Nothing of this outlives the process: the redirection ends with a descriptor.
 */
import net from "node:net";
import { type Duplex, pipeline } from "node:stream";
import { describeError, SandboxError } from "../../base/errors.ts";
import type { Log } from "../../base/log.ts";
import { closeFd } from "../../native/fd.ts";
import { bpfCall, bpfLoad, bpfMapUpdate, type NetnsOperation, runInNetns } from "../../native/net.ts";
import { errnoName, NetlinkProtocol, NetlinkSocket, setLink } from "../../netlink/index.ts";
import {
  BPF_LINK_CREATE,
  BPF_MAP_CREATE,
  BPF_PROG_TYPE_SK_LOOKUP,
  BPF_SK_LOOKUP,
  lookupLinkAttributes,
  lookupProgram,
  socketMapAttributes,
} from "./localhost-program.ts";
import { openNetns } from "./netns.ts";

export interface ForwardDestination {
  /** As the client wrote it: "127.0.0.1", "::1", or an address of the pod. */
  readonly address: string;
  readonly port: number;
}

export interface LocalhostOptions {
  readonly netnsPath: string;
  /** Connects to the destination inside the guest. Half-closes (`end()`) must cross. Rejects when nobody listens. */
  readonly dial: (destination: ForwardDestination, signal: AbortSignal) => Promise<Duplex>;
  readonly log: Log;
}

/** linux/socket.h, linux/in6.h. */
const AF_INET = 2;
const AF_INET6 = 10;
const SOCK_STREAM = 1;
const SOCK_NONBLOCK = 0o4000;
/** sizeof(struct sockaddr_in), sizeof(struct sockaddr_in6); all zero but the family: any address, any port. */
const SOCKADDR_BYTES: Readonly<Record<number, number>> = { [AF_INET]: 16, [AF_INET6]: 28 };
/** The interface lo has this index in every namespace (LOOPBACK_IFINDEX, include/net/flow.h). */
const LOOPBACK = 1;
/** Connections at a time; more are reset, so that a flood in the namespace does not use up the shim. */
const MAX_CONNECTIONS = 512;

/** Takes all TCP connections that arrive in the namespace's own stack. Release with close(). */
export class LocalhostForward {
  readonly #server: net.Server;
  readonly #linkFd: number;
  readonly #options: LocalhostOptions;
  readonly #abort = new AbortController();
  readonly #sockets = new Set<net.Socket>();

  private constructor(options: LocalhostOptions, server: net.Server, linkFd: number) {
    this.#options = options;
    this.#server = server;
    this.#linkFd = linkFd;
    server.on("connection", (socket) => void this.#relay(socket));
    server.unref();
  }

  /**
   * @throws SandboxError ERR_UNSUPPORTED on a kernel without sk_lookup programs (before Linux 5.9); ERR_NOT_FOUND and
   *   ERR_INVALID_ARGUMENT as openNetns() does.
   */
  static async open(options: LocalhostOptions): Promise<LocalhostForward> {
    const netns = openNetns(options.netnsPath);
    let server: net.Server | undefined;
    try {
      await loopbackUp(netns.fd);
      const fd = await openSocket(netns.fd);
      server = await listen(fd);
      return new LocalhostForward(options, server, attach(fd, netns.fd));
    } catch (error) {
      server?.close();
      throw error;
    } finally {
      netns.close();
    }
  }

  /** Ends the redirection and all connections. Idempotent. */
  async close(): Promise<void> {
    if (this.#abort.signal.aborted) return;
    this.#abort.abort();
    closeFd(this.#linkFd);
    for (const socket of this.#sockets) socket.resetAndDestroy();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /**
   * A client that means localhost tries its other address when nobody listens on the first. Here the first is accepted
   * before the guest was asked, so the other one is tried for it. @throws what the client's own address gave.
   */
  async #dial(destination: ForwardDestination): Promise<Duplex> {
    const { dial } = this.#options;
    try {
      return await dial(destination, this.#abort.signal);
    } catch (error) {
      const address = OTHER_LOOPBACK[destination.address];
      if (address === undefined || this.#abort.signal.aborted) throw error;
      return await dial({ ...destination, address }, this.#abort.signal).catch(() => {
        throw error;
      });
    }
  }

  async #relay(socket: net.Socket): Promise<void> {
    const { log } = this.#options;
    const destination = destinationOf(socket);
    this.#sockets.add(socket);
    socket.once("close", () => this.#sockets.delete(socket));
    socket.on("error", () => undefined); // the pipelines report it
    if (destination === undefined || this.#sockets.size > MAX_CONNECTIONS) {
      socket.resetAndDestroy();
      return;
    }
    try {
      const guest = await this.#dial(destination);
      if (socket.destroyed) {
        guest.destroy();
        return;
      }
      const ended = (error: NodeJS.ErrnoException | null | undefined) => {
        if (error) socket.resetAndDestroy();
      };
      pipeline(socket, guest, ended);
      pipeline(guest, socket, ended);
    } catch (error) {
      log.debug({ port: destination.port }, `no connection into the guest: ${describeError(error)}`);
      socket.resetAndDestroy();
    }
  }
}

const OTHER_LOOPBACK: Readonly<Record<string, string>> = { "127.0.0.1": "::1", "::1": "127.0.0.1" };

/** Where the client wanted to go; undefined when the connection is gone already. */
function destinationOf(socket: net.Socket): ForwardDestination | undefined {
  const { localAddress, localPort } = socket;
  if (localAddress === undefined || localPort === undefined) return undefined;
  // IPv4 on a socket of both families.
  return { address: localAddress.replace(/^::ffff:(?=[\d.]+$)/, ""), port: localPort };
}

async function loopbackUp(netnsFd: number): Promise<void> {
  const socket = await NetlinkSocket.open(netnsFd, NetlinkProtocol.Route);
  try {
    await socket.request(setLink(LOOPBACK, { up: true }, "lo"));
  } finally {
    socket.close();
  }
}

/** A bound TCP socket of both families, or of IPv4 where there is no IPv6. */
async function openSocket(netnsFd: number): Promise<number> {
  let errno = 0;
  for (const family of [AF_INET6, AF_INET]) {
    const address = new Uint8Array(SOCKADDR_BYTES[family] ?? 0);
    address[0] = family;
    const operations: NetnsOperation[] = [
      { do: "socket", family, type: SOCK_STREAM | SOCK_NONBLOCK, protocol: 0 },
      { do: "bind", fd: { of: 0 }, data: address },
    ];
    const [socket, bound] = await runInNetns(netnsFd, operations);
    if (socket?.fd !== undefined && bound?.errno === 0) return socket.fd;
    if (socket?.fd !== undefined) closeFd(socket.fd);
    errno = bound?.errno ?? 0;
  }
  throw new SandboxError("ERR_HOST", `cannot listen in the pod's namespace: ${errnoName(errno)}`);
}

function listen(fd: number): Promise<net.Server> {
  return new Promise((resolve, reject) => {
    // The client may end its side and still wait for the answer.
    const server = net.createServer({ allowHalfOpen: true });
    server.once("error", reject);
    server.listen({ fd }, () => {
      server.off("error", reject);
      resolve(server);
    });
  });
}

/** Attaches the program; the descriptor of the link is the caller's. */
function attach(socketFd: number, netnsFd: number): number {
  const fds: number[] = [];
  try {
    const map = bpfCall(BPF_MAP_CREATE, socketMapAttributes());
    fds.push(map);
    const value = new Uint8Array(8);
    new DataView(value.buffer).setUint32(0, socketFd, true);
    bpfMapUpdate(map, new Uint8Array(4), value);
    const program = bpfLoad(BPF_PROG_TYPE_SK_LOOKUP, lookupProgram(map), "caisson_lookup", BPF_SK_LOOKUP);
    fds.push(program);
    return bpfCall(BPF_LINK_CREATE, lookupLinkAttributes(program, netnsFd));
  } catch (error) {
    throw new SandboxError(
      "ERR_UNSUPPORTED",
      "this kernel does not let connections to the pod's localhost be taken (needs sk_lookup programs, Linux 5.9)",
      { cause: error },
    );
  } finally {
    for (const fd of fds) closeFd(fd);
  }
}
