/** Routes: struct rtmsg (12 bytes), RTA_* and struct rtnexthop, linux/rtnetlink.h. */
import {
  type Attributes,
  align4,
  attrBytes,
  attrPlainNest,
  attrU32,
  concat,
  headerView,
  nested,
  parseAttributes,
  readU32,
  viewOf,
} from "./attribute.ts";
import { AF_INET, AF_UNSPEC, formatIp, parseCidr, parseIp } from "./ip-address.ts";
import { type NetlinkRequest, Nlm } from "./message.ts";

export const RTM_NEWROUTE = 24;
export const RTM_DELROUTE = 25;
export const RTM_GETROUTE = 26;

const RTMSG = 12;
/** struct rtnexthop: u16 length, u8 flags, u8 hops, s32 ifindex. */
const RTNEXTHOP = 8;
const Rta = {
  Destination: 1,
  Oif: 4,
  Gateway: 5,
  Priority: 6,
  PreferredSource: 7,
  Metrics: 8,
  Multipath: 9,
  Table: 15,
  Via: 18,
} as const;
/** RTAX_MTU, nested under RTA_METRICS. */
const RTAX_MTU = 2;

/** RTN_*, linux/rtnetlink.h. */
export const RouteType = {
  Unicast: 1,
  Local: 2,
  Broadcast: 3,
  Anycast: 4,
  Multicast: 5,
  Blackhole: 6,
  Unreachable: 7,
  Prohibit: 8,
  Throw: 9,
} as const;
/** RT_SCOPE_*. */
export const RouteScope = { Universe: 0, Site: 200, Link: 253, Host: 254, Nowhere: 255 } as const;
/** RT_TABLE_*. */
export const RouteTable = { Default: 253, Main: 254, Local: 255 } as const;
/** RTPROT_*: who made the route. */
export const RouteProtocol = { Redirect: 1, Kernel: 2, Boot: 3, Static: 4, RouterAdvert: 9 } as const;
/** RTNH_F_ONLINK: the gateway is on the link though no route says so. */
export const RTNH_F_ONLINK = 4;
/** RTM_F_CLONED: a cached copy, not a configured route. */
const RTM_F_CLONED = 0x200;

export interface NextHop {
  readonly gateway: string;
  readonly index: number;
  /** 1 to 256. */
  readonly weight: number;
  readonly onlink: boolean;
}

export interface Route {
  readonly family: number;
  /** CIDR; empty for the default route. */
  readonly destination: string;
  /** Empty when the destination is on the link. May be IPv6 for an IPv4 route (RTA_VIA). */
  readonly gateway: string;
  /** Outgoing interface; 0 for a multipath or blackhole route. */
  readonly index: number;
  readonly source: string;
  readonly scope: number;
  readonly type: number;
  readonly table: number;
  readonly protocol: number;
  readonly metric: number;
  readonly onlink: boolean;
  readonly mtu: number;
  readonly cloned: boolean;
  readonly nextHops: readonly NextHop[];
}

/** The message payload of RTM_NEWROUTE or RTM_DELROUTE. */
export function parseRoute(payload: Uint8Array): Route {
  const view = headerView(payload, RTMSG, "a route");
  const attributes = parseAttributes(payload, RTMSG);
  const flags = view.getUint32(8, true);
  const destination = attributes.get(Rta.Destination);
  const source = attributes.get(Rta.PreferredSource);
  const metrics = nested(attributes, Rta.Metrics);
  const multipath = attributes.get(Rta.Multipath);
  return {
    family: payload[0] ?? 0,
    destination: destination === undefined ? "" : `${formatIp(destination)}/${payload[1] ?? 0}`,
    gateway: parseGateway(attributes),
    index: readU32(attributes, Rta.Oif) ?? 0,
    source: source === undefined ? "" : formatIp(source),
    scope: payload[6] ?? 0,
    type: payload[7] ?? 0,
    table: readU32(attributes, Rta.Table) ?? payload[4] ?? 0,
    protocol: payload[5] ?? 0,
    metric: readU32(attributes, Rta.Priority) ?? 0,
    onlink: (flags & RTNH_F_ONLINK) !== 0,
    mtu: metrics === undefined ? 0 : (readU32(metrics, RTAX_MTU) ?? 0),
    cloned: (flags & RTM_F_CLONED) !== 0,
    nextHops: multipath === undefined ? [] : parseNextHops(multipath),
  };
}

function parseGateway(attributes: Attributes): string {
  const gateway = attributes.get(Rta.Gateway);
  if (gateway !== undefined) return formatIp(gateway);
  // struct rtvia: u16 family, address.
  const via = attributes.get(Rta.Via);
  return via === undefined ? "" : formatIp(via.subarray(2));
}

function parseNextHops(bytes: Uint8Array): NextHop[] {
  const view = viewOf(bytes);
  const hops: NextHop[] = [];
  let at = 0;
  while (at + RTNEXTHOP <= bytes.length) {
    const length = view.getUint16(at, true);
    if (length < RTNEXTHOP || at + length > bytes.length) break;
    hops.push({
      gateway: parseGateway(parseAttributes(bytes.subarray(at, at + length), RTNEXTHOP)),
      index: view.getInt32(at + 4, true),
      weight: (bytes[at + 3] ?? 0) + 1,
      onlink: ((bytes[at + 2] ?? 0) & RTNH_F_ONLINK) !== 0,
    });
    at += align4(length);
  }
  return hops;
}

export function dumpRoutes(family: number = AF_UNSPEC): NetlinkRequest {
  const head = new Uint8Array(RTMSG);
  head[0] = family;
  return { type: RTM_GETROUTE, flags: Nlm.Dump, payload: head, what: "listing the routes" };
}

function gatewayAttribute(family: number, gateway: string): Uint8Array[] {
  if (gateway === "") return [];
  const bytes = parseIp(gateway);
  if (family !== AF_INET || bytes.length === 4) return [attrBytes(Rta.Gateway, bytes)];
  const via = new Uint8Array(2 + bytes.length);
  viewOf(via).setUint16(0, 10, true);
  via.set(bytes, 2);
  return [attrBytes(Rta.Via, via)];
}

function encodeNextHop(family: number, hop: NextHop): Uint8Array {
  const gateway = concat(...gatewayAttribute(family, hop.gateway));
  const head = new Uint8Array(RTNEXTHOP);
  const view = viewOf(head);
  view.setUint16(0, RTNEXTHOP + gateway.length, true);
  head[2] = hop.onlink ? RTNH_F_ONLINK : 0;
  head[3] = hop.weight - 1;
  view.setInt32(4, hop.index, true);
  return concat(head, gateway);
}

function routePayload(route: Route): Uint8Array {
  const head = new Uint8Array(RTMSG);
  const parts: Uint8Array[] = [head];
  head[0] = route.family;
  if (route.destination !== "") {
    const { address, prefixLength } = parseCidr(route.destination);
    head[1] = prefixLength;
    parts.push(attrBytes(Rta.Destination, address));
  }
  head[4] = route.table < 256 ? route.table : 0;
  head[5] = route.protocol;
  head[6] = route.scope;
  head[7] = route.type;
  viewOf(head).setUint32(8, route.onlink ? RTNH_F_ONLINK : 0, true);
  parts.push(attrU32(Rta.Table, route.table), ...gatewayAttribute(route.family, route.gateway));
  if (route.index !== 0) parts.push(attrU32(Rta.Oif, route.index));
  if (route.metric !== 0) parts.push(attrU32(Rta.Priority, route.metric));
  if (route.source !== "") parts.push(attrBytes(Rta.PreferredSource, parseIp(route.source)));
  if (route.mtu !== 0) parts.push(attrPlainNest(Rta.Metrics, attrU32(RTAX_MTU, route.mtu)));
  if (route.nextHops.length > 0) {
    const hops = route.nextHops.map((hop) => encodeNextHop(route.family, hop));
    parts.push(attrBytes(Rta.Multipath, concat(...hops)));
  }
  return concat(...parts);
}

/** Adds the route; one that exists already gives EEXIST. */
export function addRoute(route: Route): NetlinkRequest {
  return {
    type: RTM_NEWROUTE,
    flags: Nlm.Create | Nlm.Exclusive,
    payload: routePayload(route),
    what: `adding the route to ${route.destination === "" ? "default" : route.destination}`,
  };
}

export function deleteRoute(route: Route): NetlinkRequest {
  return {
    type: RTM_DELROUTE,
    flags: 0,
    payload: routePayload(route),
    what: `removing the route to ${route.destination === "" ? "default" : route.destination}`,
  };
}
