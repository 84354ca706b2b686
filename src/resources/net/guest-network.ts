/** What the guest is told about its network: the pod's, without what belongs to the namespace's own kernel. */
import { create } from "@bufbuild/protobuf";
import { type ApplyNetworkRequest, ApplyNetworkRequestSchema } from "../../gen/caisson/agent/v1/agent_pb.ts";
import {
  type Address,
  AF_INET,
  AF_INET6,
  isIpv6LinkLocal,
  isKernelRule,
  isMulticast,
  type Link,
  Nud,
  parseCidr,
  parseIp,
  parseRule,
  portableRule,
  type Route,
  RouteProtocol,
  RouteTable,
  RouteType,
} from "../../netlink/index.ts";
import type { PodState } from "./pod-state.ts";

/**
 * The request for the interfaces `links`. Left out: IPv6 link-local addresses and their route (the guest's kernel makes
 * its own from the same MAC), the local table, learned neighbours. Routes that the kernel made for an address are told
 * too, since the guest's kernel makes none: CNI plugins such as ptp replace them by others.
 */
export function guestNetwork(state: PodState, links: readonly Link[]): ApplyNetworkRequest {
  const names = new Map(links.map((link) => [link.index, link.name]));
  return create(ApplyNetworkRequestSchema, {
    interfaces: links.map((link) => ({
      name: link.name,
      mac: link.mac,
      mtu: link.mtu,
      addresses: addressesOf(state.addresses, link),
    })),
    routes: state.routes
      .filter((route) => isGuestRoute(route, names))
      .sort(onLinkFirst)
      .map((route) => guestRoute(route, names)),
    neighbours: state.neighbours
      .filter(
        (entry) => names.has(entry.index) && (entry.state & Nud.Permanent) !== 0 && entry.address !== "",
      )
      .map((entry) => ({
        address: entry.address,
        mac: entry.mac,
        device: names.get(entry.index) ?? "",
        state: entry.state,
        flags: entry.flags,
      })),
    rules: guestRules(state, links),
  });
}

/** Rules of the pod's own making that name no other interface than `links` and the loopback, which each kernel has. */
export function guestRules(state: PodState, links: readonly Link[]): Uint8Array[] {
  const names = new Set(["", "lo", ...links.map((link) => link.name)]);
  return state.rules
    .filter((payload) => {
      const { family, inInterface, outInterface } = parseRule(payload);
      const isIp = family === AF_INET || family === AF_INET6;
      return isIp && names.has(inInterface) && names.has(outInterface) && !isKernelRule(payload);
    })
    .map(portableRule);
}

function addressesOf(addresses: readonly Address[], link: Link): string[] {
  return addresses
    .filter((entry) => entry.index === link.index && (entry.family === AF_INET || entry.family === AF_INET6))
    .map((entry) => entry.address)
    .filter((cidr) => !isIpv6LinkLocal(parseCidr(cidr).address));
}

/** Route types that name no interface: what they match is refused. */
function isRefusal(type: number): boolean {
  return type === RouteType.Blackhole || type === RouteType.Unreachable || type === RouteType.Prohibit;
}

function isGuestRoute(route: Route, names: ReadonlyMap<number, string>): boolean {
  if (route.family !== AF_INET && route.family !== AF_INET6) return false;
  if (route.cloned || route.table === RouteTable.Local) return false;
  if (route.family === AF_INET6 && route.destination !== "") {
    // ff00::/8 and fe80::/64: every kernel has them for every interface.
    const { address } = parseCidr(route.destination);
    if (isMulticast(address)) return false;
    if (isIpv6LinkLocal(address) && route.protocol === RouteProtocol.Kernel) return false;
  }
  if (isRefusal(route.type)) return true;
  if (route.type !== RouteType.Unicast) return false;
  if (route.nextHops.length > 0) return route.nextHops.every((hop) => names.has(hop.index));
  return names.has(route.index);
}

/** A gateway must be reachable when its route is added, so the routes without one come first; else order is kept. */
function onLinkFirst(a: Route, b: Route): number {
  const rank = (route: Route) => (route.gateway === "" && route.nextHops.length === 0 ? 0 : 1);
  return rank(a) - rank(b);
}

function guestRoute(route: Route, names: ReadonlyMap<number, string>) {
  return {
    destination: route.destination,
    gateway: route.gateway,
    device: isRefusal(route.type) ? "" : (names.get(route.index) ?? ""),
    source: route.source !== "" && isIpv6LinkLocal(parseIp(route.source)) ? "" : route.source,
    scope: route.scope,
    type: route.type,
    table: route.table,
    metric: route.metric,
    onlink: route.onlink,
    mtu: route.mtu,
    family: route.family,
    nextHops: route.nextHops.map((hop) => ({
      gateway: hop.gateway,
      device: names.get(hop.index) ?? "",
      weight: hop.weight,
      onlink: hop.onlink,
    })),
  };
}
