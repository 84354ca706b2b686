/** What of an earlier ApplyNetwork request a later one no longer has, as netlink requests. Pure. */
import type { ApplyNetworkRequest, Neighbour, Route } from "../../../src/gen/caisson/agent/v1/agent_pb.ts";
import { deleteAddress } from "../../../src/netlink/address.ts";
import { type Link, setLink } from "../../../src/netlink/link.ts";
import type { NetlinkRequest } from "../../../src/netlink/message.ts";
import { deleteNeighbour } from "../../../src/netlink/neighbour.ts";
import { deleteRoute } from "../../../src/netlink/route.ts";
import { removeRule } from "../../../src/netlink/rule.ts";
import { linkByMac, toRoute } from "./plan.ts";

/**
 * Policy rules, routes and neighbours first, then addresses, then interfaces that are to be left alone from now on, which go down.
 * What belongs to an interface that is gone went with it. Run planNetwork()'s requests afterwards: with an address the
 * kernel also removes routes that stay wanted.
 */
export function planRemovals(
  last: ApplyNetworkRequest,
  next: ApplyNetworkRequest,
  links: readonly Link[],
): NetlinkRequest[] {
  const indexes = new Map<string, number>();
  for (const { name, mac } of last.interfaces) {
    const link = linkByMac(links, mac);
    if (link !== undefined) indexes.set(name, link.index);
  }
  const device = (name: string) => indexes.get(name) ?? 0;
  const present = (name: string) => name === "" || indexes.has(name);
  const routes = withoutThose(last.routes, next.routes, routeKey)
    .filter((route) => present(route.device) && route.nextHops.every((hop) => present(hop.device)))
    .map((route) => deleteRoute(toRoute(route, device)));
  const neighbours = withoutThose(last.neighbours, next.neighbours, neighbourKey)
    .filter((entry) => indexes.has(entry.device))
    .map((entry) => deleteNeighbour({ ...entry, index: device(entry.device) }));
  const rules = withoutThose(last.rules, next.rules, (rule) => [...rule]).map(removeRule);
  return [...rules, ...routes.reverse(), ...neighbours, ...interfaceRemovals(last, next, links)];
}

function interfaceRemovals(
  last: ApplyNetworkRequest,
  next: ApplyNetworkRequest,
  links: readonly Link[],
): NetlinkRequest[] {
  const plan: NetlinkRequest[] = [];
  for (const { name, mac, addresses } of last.interfaces) {
    const link = linkByMac(links, mac);
    if (link === undefined) continue;
    const kept = next.interfaces.find((entry) => entry.mac.toLowerCase() === mac.toLowerCase());
    const gone = addresses.filter((cidr) => kept?.addresses.includes(cidr) !== true);
    plan.push(...gone.map((cidr) => deleteAddress(link.index, cidr)));
    if (kept === undefined) plan.push(setLink(link.index, { up: false }, name));
  }
  return plan;
}

/** Entries of `before` that are not in `after`, by content. */
function withoutThose<T>(before: readonly T[], after: readonly T[], key: (entry: T) => unknown[]): T[] {
  const kept = new Set(after.map((entry) => JSON.stringify(key(entry))));
  return before.filter((entry) => !kept.has(JSON.stringify(key(entry))));
}

const routeKey = (route: Route) => [
  ...[route.destination, route.gateway, route.device, route.source, route.scope, route.type, route.table],
  ...[route.metric, route.onlink, route.mtu, route.family],
  ...route.nextHops.map((hop) => [hop.gateway, hop.device, hop.weight, hop.onlink]),
];

const neighbourKey = (entry: Neighbour) => [entry.address, entry.mac, entry.device, entry.state, entry.flags];
