/** Reads what CNI made in a pod's network namespace. */
import { SandboxError } from "../../base/errors.ts";
import { once } from "../../base/once.ts";
import { type NetnsOperation, runInNetns } from "../../native/net.ts";
import {
  type Address,
  ARPHRD_ETHER,
  dumpAddresses,
  dumpLinks,
  dumpNeighbours,
  dumpQdiscs,
  dumpRoutes,
  dumpRules,
  Errno,
  Iff,
  type Link,
  type Neighbour,
  NetlinkProtocol,
  openSocketOperations,
  parseAddress,
  parseLink,
  parseNeighbour,
  parseQdisc,
  parseRoute,
  type Qdisc,
  type Route,
  RTM_GETRULE,
  repliesOf,
  requireSuccess,
} from "../../netlink/index.ts";
import { encodeBatch, type NetlinkMessage, type NetlinkRequest } from "../../netlink/message.ts";
import { NetlinkSocket } from "../../netlink/socket.ts";
import { openNetns } from "./netns.ts";

/** A namespace at one moment. */
export interface PodState {
  readonly links: readonly Link[];
  readonly addresses: readonly Address[];
  readonly routes: readonly Route[];
  readonly neighbours: readonly Neighbour[];
  readonly qdiscs: readonly Qdisc[];
  /** Of policy routing, as the kernel listed them: payloads of RTM_NEWRULE. Empty where it has none. */
  readonly rules: readonly Uint8Array[];
}

/** Prefix and suffix of the interfaces that we add: tap0_caisson, tap1_caisson, … */
export const TAP_NAME = /^tap(\d+)_caisson$/;

export function tapName(ordinal: number): string {
  return `tap${ordinal}_caisson`;
}

/** Kinds of interfaces that are plumbing inside a namespace and never a pod's link to the world. */
const PLUMBING = new Set(["tun", "macvtap", "ifb", "dummy", "bridge", "bond", "team", "vrf", "nlmon"]);

/**
 * The interfaces that the guest takes over, in the order in which they were made: Ethernet, up, not plumbing and not
 * part of a bridge or bond.
 */
export function podLinks(state: PodState): Link[] {
  return state.links
    .filter(
      (link) =>
        link.type === ARPHRD_ETHER &&
        (link.flags & Iff.Loopback) === 0 &&
        (link.flags & Iff.Up) !== 0 &&
        link.masterIndex === 0 &&
        !PLUMBING.has(link.kind),
    )
    .sort((a, b) => a.index - b.index);
}

const REQUESTS = [
  dumpLinks(),
  dumpAddresses(),
  dumpRoutes(),
  dumpNeighbours(),
  dumpQdiscs(),
  dumpRules(),
] as const satisfies readonly NetlinkRequest[];

/** A dump that keeps being interrupted by changes is given up after so many attempts. */
const READ_ATTEMPTS = 10;

/** State of the namespace and a socket in it, with one visit. The caller closes the socket. */
export async function readPodState(netnsFd: number): Promise<{ state: PodState; socket: NetlinkSocket }> {
  const operations: NetnsOperation[] = [
    ...openSocketOperations(NetlinkProtocol.Route, 0),
    ...dumps({ of: 0 }),
  ];
  const results = await runInNetns(netnsFd, operations);
  const fd = results[0]?.fd;
  if (fd === undefined)
    throw new SandboxError("ERR_HOST", "cannot open a netlink socket in the pod's namespace");
  const socket = new NetlinkSocket(fd);
  try {
    socket.takeSequence(REQUESTS.length);
    const state = collect(results.slice(-REQUESTS.length));
    return { state: state ?? (await rereadPodState(socket)), socket };
  } catch (error) {
    socket.close();
    throw error;
  }
}

/** State of the namespace of `socket`, as one consistent picture. */
export async function rereadPodState(socket: NetlinkSocket): Promise<PodState> {
  for (let attempt = 0; attempt < READ_ATTEMPTS; attempt++) {
    const state = collect(await runInNetns(undefined, dumps(socket.fd)));
    if (state !== undefined) return state;
  }
  throw new SandboxError("ERR_UNAVAILABLE", "the pod's network kept changing while it was read");
}

function dumps(fd: number | { of: number }): NetnsOperation[] {
  return REQUESTS.map((request, i) => ({ do: "exchange", fd, data: encodeBatch([request], i + 1) }));
}

/** Undefined when a dump was interrupted. @throws NetlinkError */
function collect(results: Awaited<ReturnType<typeof runInNetns>>): PodState | undefined {
  const answers: (readonly NetlinkMessage[])[] = [];
  for (const [i, request] of REQUESTS.entries()) {
    const result = results[i];
    if (result === undefined) return undefined;
    const [reply] = repliesOf(result, i + 1, [request]);
    if (reply === undefined || reply.interrupted) return undefined;
    const lacking = request.type === RTM_GETRULE && reply.errno === Errno.EOPNOTSUPP;
    answers.push(lacking ? [] : requireSuccess(request, reply));
  }
  const parsed = <T>(i: number, parse: (payload: Uint8Array) => T) =>
    once(() => (answers[i] ?? []).map((message) => parse(message.payload)));
  const [addresses, routes, neighbours] = [
    parsed(1, parseAddress),
    parsed(2, parseRoute),
    parsed(3, parseNeighbour),
  ];
  // A redirect is wired without these; what the guest is told is worked out while it boots.
  return {
    links: parsed(0, parseLink)(),
    get addresses() {
      return addresses();
    },
    get routes() {
      return routes();
    },
    get neighbours() {
      return neighbours();
    },
    qdiscs: parsed(4, parseQdisc)(),
    rules: parsed(5, (payload) => payload)(),
  };
}

/** Reads the namespace at `netnsPath` once. @throws SandboxError as openNetns() does. */
export async function readPodNetwork(netnsPath: string): Promise<PodState> {
  const netns = openNetns(netnsPath);
  try {
    const { state, socket } = await readPodState(netns.fd);
    socket.close();
    return state;
  } finally {
    netns.close();
  }
}
