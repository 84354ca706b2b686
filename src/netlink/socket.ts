/**
 * A netlink socket in a network namespace.
 *
 * A socket keeps the namespace in which it was opened, so one short visit gives a descriptor that works from anywhere.
 * Requests run on a thread of their own (a change may wait for the kernel's global rtnl lock); the answers are complete
 * when the call returns, because rtnetlink and nfnetlink handle a request inside send().
 */
import { SandboxError } from "../base/errors.ts";
import { closeFd } from "../native/fd.ts";
import { type NetnsOperation, type NetnsResult, runInNetns } from "../native/net.ts";
import { errnoName } from "./errno.ts";
import { encodeBatch, type NetlinkMessage, type NetlinkRequest, Nlm } from "./message.ts";
import { encodeNftBatch } from "./nftables.ts";
import { NetlinkError, type NetlinkReply, requireSuccess, sortReplies } from "./reply.ts";

/** linux/socket.h, linux/netlink.h. */
const AF_NETLINK = 16;
const SOCK_RAW = 3;
const SOL_NETLINK = 270;
const NETLINK_CAP_ACK = 10;
const NETLINK_EXT_ACK = 11;
/** NETLINK_ROUTE and NETLINK_NETFILTER. */
export const NetlinkProtocol = { Route: 0, Netfilter: 12 } as const;

/** A dump that keeps being interrupted is given up after so many attempts. */
const DUMP_ATTEMPTS = 10;

const ONE = Uint8Array.of(1, 0, 0, 0);

/**
 * The operations that open a netlink socket with complete error reports, for a list that runs in a namespace.
 * @param at position in the list of the first of these operations, which is the one that gives the descriptor.
 */
export function openSocketOperations(protocol: number, at: number): NetnsOperation[] {
  const option = (name: number): NetnsOperation => ({
    do: "setsockopt",
    fd: { of: at },
    level: SOL_NETLINK,
    name,
    data: ONE,
    optional: true, // EXT_ACK is Linux 4.12, CAP_ACK 4.3
  });
  return [
    { do: "socket", family: AF_NETLINK, type: SOCK_RAW, protocol },
    option(NETLINK_EXT_ACK),
    option(NETLINK_CAP_ACK),
  ];
}

export class NetlinkSocket {
  readonly #fd: number;
  #sequence = 1;
  #closed = false;
  /** Settles when the exchange before is over: two at once would take each other's answers. */
  #last: Promise<unknown> = Promise.resolve();

  /** Takes over a descriptor that openSocketOperations() gave. */
  constructor(fd: number) {
    this.#fd = fd;
  }

  /** Opens a socket in the namespace `netnsFd` (undefined: the current one). The caller closes it. */
  static async open(netnsFd: number | undefined, protocol: number): Promise<NetlinkSocket> {
    const results = await runInNetns(netnsFd, openSocketOperations(protocol, 0));
    const { fd, errno } = results[0] as NetnsResult;
    if (fd === undefined) throw new NetlinkError("opening a netlink socket", errno);
    return new NetlinkSocket(fd);
  }

  /** For an "exchange" in a list of one's own, while no request of this object is under way. */
  get fd(): number {
    return this.#fd;
  }

  /** Numbers for `count` requests. */
  takeSequence(count: number): number {
    const first = this.#sequence;
    this.#sequence = (this.#sequence + count) >>> 0;
    return first;
  }

  /**
   * Sends the requests in one datagram; the kernel handles them in order and goes on after one that it refused.
   * At most one of them may be a dump.
   * @returns one reply for each request.
   */
  async exchange(requests: readonly NetlinkRequest[]): Promise<NetlinkReply[]> {
    const first = this.takeSequence(requests.length);
    return this.#send(encodeBatch(requests, first), first, requests);
  }

  /** One request that must succeed. @throws NetlinkError */
  async request(request: NetlinkRequest): Promise<readonly NetlinkMessage[]> {
    const [reply] = await this.exchange([request]);
    return requireSuccess(request, reply as NetlinkReply);
  }

  /**
   * A dump as one consistent picture: repeated when the kernel says that it changed meanwhile.
   * @throws NetlinkError; SandboxError ERR_UNAVAILABLE when it never came whole.
   */
  async dump(request: NetlinkRequest): Promise<readonly NetlinkMessage[]> {
    for (let attempt = 0; attempt < DUMP_ATTEMPTS; attempt++) {
      const [reply] = await this.exchange([request]);
      const messages = requireSuccess(request, reply as NetlinkReply);
      if (reply?.interrupted === false) return messages;
    }
    throw new SandboxError(
      "ERR_UNAVAILABLE",
      `${request.what}: it changed during each of ${DUMP_ATTEMPTS} attempts`,
    );
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    closeFd(this.#fd);
  }

  async #send(data: Uint8Array, first: number, requests: readonly NetlinkRequest[]): Promise<NetlinkReply[]> {
    const turn = this.#last.then(() => {
      if (this.#closed) throw new SandboxError("ERR_STATE", "the netlink socket is closed");
      return runInNetns(undefined, [{ do: "exchange", fd: this.#fd, data }]);
    });
    this.#last = turn.catch(() => undefined);
    const [result] = await turn;
    return repliesOf(result as NetnsResult, first, requests);
  }
}

/**
 * Makes nf_tables changes in the namespace `netnsFd` as one batch, all or nothing, with a socket of its own that is
 * opened and closed on the visiting thread.
 * @returns one reply for each request.
 * @throws NetlinkError when there is no nfnetlink.
 */
export async function nftBatch(
  netnsFd: number,
  requests: readonly NetlinkRequest[],
): Promise<NetlinkReply[]> {
  return visitNetfilter(netnsFd, encodeNftBatch(requests, 1), requests);
}

/** An nf_tables dump in the namespace `netnsFd`. @throws NetlinkError */
export async function nftDump(netnsFd: number, request: NetlinkRequest): Promise<readonly NetlinkMessage[]> {
  const [reply] = await visitNetfilter(netnsFd, encodeBatch([request], 1), [request]);
  return requireSuccess(request, reply as NetlinkReply);
}

async function visitNetfilter(
  netnsFd: number,
  data: Uint8Array,
  requests: readonly NetlinkRequest[],
): Promise<NetlinkReply[]> {
  const open = openSocketOperations(NetlinkProtocol.Netfilter, 0);
  const results = await runInNetns(netnsFd, [
    ...open,
    { do: "exchange", fd: { of: 0 }, data, optional: true },
    { do: "close", fd: { of: 0 } },
  ]);
  const [socket, exchange] = [results[0] as NetnsResult, results[open.length] as NetnsResult];
  if (socket.errno !== 0) throw new NetlinkError("opening an nfnetlink socket", socket.errno);
  return repliesOf(exchange, 1, requests);
}

/** The replies in the result of an "exchange" operation. @throws NetlinkError when sending or receiving failed. */
export function repliesOf(
  result: NetnsResult,
  first: number,
  requests: readonly NetlinkRequest[],
): NetlinkReply[] {
  const replies = sortReplies(result.datagrams ?? [], first, requests.length);
  if (result.errno === 0) return replies;
  // ENOBUFS: answers were lost. What is there of a dump is not whole; another request's fate is unknown.
  if (errnoName(result.errno) === "ENOBUFS") {
    return replies.map((reply, i) => ({
      ...reply,
      missing: reply.missing && ((requests[i]?.flags ?? 0) & Nlm.Dump) === 0,
      interrupted: true,
    }));
  }
  throw new NetlinkError(requests[0]?.what ?? "a netlink exchange", result.errno);
}
