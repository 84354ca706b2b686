/** Multicast notifications of a network namespace: what changed, as the kernel tells it. */
import { errnoOf } from "../base/errors.ts";
import { closeFd, readFd } from "../native/fd.ts";
import { FdWatcher } from "../native/fd-watcher.ts";
import { type NetnsResult, runInNetns } from "../native/net.ts";
import { viewOf } from "./attribute.ts";
import { decodeMessages, type NetlinkMessage } from "./message.ts";
import { NetlinkError } from "./reply.ts";
import { NetlinkProtocol, openSocketOperations } from "./socket.ts";

/** RTNLGRP_* as bits of the old group mask (linux/rtnetlink.h RTMGRP_*). */
export const RouteGroup = {
  Link: 0x1,
  Neighbour: 0x4,
  Ipv4Address: 0x10,
  Ipv4Route: 0x40,
  Ipv4Rule: 0x80,
  Ipv6Address: 0x100,
  Ipv6Route: 0x400,
  Ipv6Rule: 0x40000,
} as const;

/** linux/socket.h. */
const AF_NETLINK = 16;
const SOL_SOCKET = 1;
const SO_RCVBUFFORCE = 33;
/** A burst of this many bytes of notifications is kept while the event loop is busy. */
const RECEIVE_BUFFER = 1024 * 1024;
/** Longest datagram of notifications: one message (NLMSG_GOODSIZE is at most 8 KiB; links may need more). */
const DATAGRAM = 64 * 1024;

export interface MonitorHandlers {
  changed(messages: readonly NetlinkMessage[]): void;
  /** The kernel dropped notifications: read everything anew. */
  overrun(): void;
  /** The socket broke; the monitor is closed. */
  failed(error: unknown): void;
}

/** Holds one socket that is subscribed to RouteGroup bits. Release with close(). */
export class NetlinkMonitor {
  readonly #fd: number;
  readonly #watcher: FdWatcher;
  readonly #handlers: MonitorHandlers;
  readonly #buffer = new Uint8Array(DATAGRAM);
  #closed = false;

  private constructor(fd: number, handlers: MonitorHandlers) {
    this.#fd = fd;
    this.#handlers = handlers;
    this.#watcher = new FdWatcher(fd, { readable: () => this.#drain() });
    this.#watcher.watchReadable(true);
    this.#watcher.unref();
  }

  /** Subscribes in the namespace `netnsFd`. @param groups sum of RouteGroup bits. @throws NetlinkError */
  static async open(netnsFd: number, groups: number, handlers: MonitorHandlers): Promise<NetlinkMonitor> {
    const size = new Uint8Array(4);
    viewOf(size).setUint32(0, RECEIVE_BUFFER, true);
    // struct sockaddr_nl: u16 family, u16 zero, u32 port id (0: the kernel assigns one), u32 groups.
    const address = new Uint8Array(12);
    viewOf(address).setUint16(0, AF_NETLINK, true);
    viewOf(address).setUint32(8, groups, true);
    const results = await runInNetns(netnsFd, [
      ...openSocketOperations(NetlinkProtocol.Route, 0),
      {
        do: "setsockopt",
        fd: { of: 0 },
        level: SOL_SOCKET,
        name: SO_RCVBUFFORCE,
        data: size,
        optional: true,
      },
      { do: "bind", fd: { of: 0 }, data: address },
    ]);
    const { fd } = results[0] as NetnsResult;
    const failed = results.find((result, i) => result.errno !== 0 && (i === 0 || i === results.length - 1));
    if (fd === undefined || failed !== undefined) {
      if (fd !== undefined) closeFd(fd);
      throw new NetlinkError("subscribing to network changes", failed?.errno ?? 0);
    }
    return new NetlinkMonitor(fd, handlers);
  }

  /** No handler is called afterwards. Idempotent. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#watcher.close();
    closeFd(this.#fd);
  }

  #drain(): void {
    const messages: NetlinkMessage[] = [];
    let overrun = false;
    while (!this.#closed) {
      try {
        const length = readFd(this.#fd, this.#buffer);
        if (length === "again" || length === 0) break;
        messages.push(...decodeMessages(this.#buffer.slice(0, length)));
      } catch (error) {
        if (errnoOf(error) !== "ENOBUFS") {
          this.close();
          this.#handlers.failed(error);
          return;
        }
        overrun = true;
      }
    }
    if (overrun) this.#handlers.overrun();
    else if (messages.length > 0) this.#handlers.changed(messages);
  }
}
