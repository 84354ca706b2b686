/** From an ApplyNetwork request and the links that exist to netlink requests, in the order in which they must run. Pure. */
import { SandboxError } from "../../../src/base/errors.ts";
import type {
  ApplyNetworkRequest,
  Interface,
  NextHop as NextHopMessage,
  Route as RouteMessage,
} from "../../../src/gen/caisson/agent/v1/agent_pb.ts";
import { addAddress, IfaFlag } from "../../../src/netlink/address.ts";
import { AF_INET, AF_INET6, familyOf, parseCidr } from "../../../src/netlink/ip-address.ts";
import { Iff, type Link, setLink } from "../../../src/netlink/link.ts";
import type { NetlinkRequest } from "../../../src/netlink/message.ts";
import { Nud, setNeighbour } from "../../../src/netlink/neighbour.ts";
import { addRoute, type Route, RouteProtocol, RouteTable, RouteType } from "../../../src/netlink/route.ts";
import { insertRule } from "../../../src/netlink/rule.ts";

/** Interfaces of the request that the guest does not have (yet), by MAC. */
export function missingInterfaces(request: ApplyNetworkRequest, links: readonly Link[]): string[] {
  return request.interfaces.filter(({ mac }) => linkByMac(links, mac) === undefined).map(({ mac }) => mac);
}

/**
 * Names, MTUs, addresses and states of the interfaces first (loopback included), then routes (those on the link before
 * those through a gateway), then neighbours, then policy rules.
 * @throws SandboxError ERR_NOT_FOUND (no interface with that MAC or name), ERR_INVALID_ARGUMENT (a bad address)
 */
export function planNetwork(request: ApplyNetworkRequest, links: readonly Link[]): NetlinkRequest[] {
  const names = new Map(links.map((link) => [link.name, link.index]));
  const plan: NetlinkRequest[] = [];
  const loopback = links.find((link) => (link.flags & Iff.Loopback) !== 0);
  if (loopback !== undefined && (loopback.flags & Iff.Up) === 0) {
    plan.push(setLink(loopback.index, { up: true }, loopback.name));
  }
  const matched = request.interfaces.map((wanted) => ({ wanted, link: requireLink(links, wanted) }));
  plan.push(...makeRoom(matched, links, names));
  for (const { wanted, link } of matched) {
    plan.push(...configure(wanted, link));
    names.set(wanted.name, link.index);
  }
  const device = (name: string) => indexOf(names, name);
  const routes = request.routes.map((route) => toRoute(route, device));
  plan.push(...routes.filter((route) => !isViaGateway(route)).map(addRoute));
  plan.push(...routes.filter(isViaGateway).map(addRoute));
  for (const { address, mac, device: name, state, flags } of request.neighbours) {
    plan.push(setNeighbour({ index: device(name), address, mac, state: state || Nud.Permanent, flags }));
  }
  plan.push(...request.rules.map(insertRule));
  return plan;
}

type Match = { readonly wanted: Interface; readonly link: Link };

/** Moves links out of the way whose names others are to get: two interfaces may have to swap names. */
function makeRoom(
  matched: readonly Match[],
  links: readonly Link[],
  names: Map<string, number>,
): NetlinkRequest[] {
  const plan: NetlinkRequest[] = [];
  for (const { wanted, link } of matched) {
    const holder = links.find((other) => other.name === wanted.name && other.index !== link.index);
    if (holder === undefined) continue;
    const aside = `moved${holder.index}`;
    plan.push(
      setLink(holder.index, { up: false }, holder.name),
      setLink(holder.index, { name: aside }, holder.name),
    );
    names.delete(holder.name);
    names.set(aside, holder.index);
  }
  return plan;
}

function configure(wanted: Interface, link: Link): NetlinkRequest[] {
  const plan: NetlinkRequest[] = [];
  const isUp = (link.flags & Iff.Up) !== 0;
  const rename = wanted.name !== "" && wanted.name !== link.name;
  // A device that is up cannot be renamed (before Linux 6.2).
  if (rename && isUp) plan.push(setLink(link.index, { up: false }, link.name));
  const mtu = wanted.mtu !== 0 && wanted.mtu !== link.mtu ? { mtu: wanted.mtu } : {};
  if (rename || "mtu" in mtu) {
    plan.push(setLink(link.index, { ...(rename ? { name: wanted.name } : {}), ...mtu }, wanted.name));
  }
  // Up first: IPv6 addresses of a device that is down are kept tentative.
  plan.push(setLink(link.index, { up: true }, wanted.name));
  for (const cidr of wanted.addresses) {
    // The address is the pod's own, moved here from the host: nobody else can have it (IPv4 knows no such flag). The
    // request names all routes that are wanted: the kernel adds none for the address.
    const isV6 = familyOf(parseCidr(cidr).address) === AF_INET6;
    plan.push(addAddress(link.index, cidr, { flags: IfaFlag.NoPrefixRoute | (isV6 ? IfaFlag.NoDad : 0) }));
  }
  return plan;
}

/** @param device the index of an interface by its name. @throws SandboxError ERR_INVALID_ARGUMENT (a bad address) */
export function toRoute(route: RouteMessage, device: (name: string) => number): Route {
  const hop = (next: NextHopMessage) => ({
    gateway: next.gateway,
    index: device(next.device),
    weight: Math.min(256, Math.max(1, next.weight)),
    onlink: next.onlink,
  });
  return {
    family: routeFamily(route),
    destination: route.destination,
    gateway: route.gateway,
    index: route.device === "" ? 0 : device(route.device),
    source: route.source,
    scope: route.scope,
    type: route.type || RouteType.Unicast,
    table: route.table || RouteTable.Main,
    protocol: RouteProtocol.Static,
    metric: route.metric,
    onlink: route.onlink,
    mtu: route.mtu,
    cloned: false,
    nextHops: route.nextHops.map(hop),
  };
}

function isViaGateway(route: Route): boolean {
  return route.gateway !== "" || route.nextHops.some(({ gateway }) => gateway !== "");
}

function routeFamily(route: RouteMessage): number {
  if (route.family !== 0) return route.family;
  if (route.destination !== "") return familyOf(parseCidr(route.destination).address);
  if (route.gateway !== "") return familyOf(parseCidr(route.gateway).address);
  return AF_INET;
}

/** The newest: a NIC of the boot whose pod interface was removed stays, and another one may get its MAC. */
export function linkByMac(links: readonly Link[], mac: string): Link | undefined {
  const wanted = mac.toLowerCase();
  return links.findLast((link) => link.mac === wanted && (link.flags & Iff.Loopback) === 0);
}

function requireLink(links: readonly Link[], wanted: Interface): Link {
  const link = linkByMac(links, wanted.mac);
  if (link !== undefined) return link;
  throw new SandboxError(
    "ERR_NOT_FOUND",
    `the guest has no interface with the MAC address ${wanted.mac} for ${wanted.name}`,
    { fields: { dev: wanted.name } },
  );
}

function indexOf(names: ReadonlyMap<string, number>, name: string): number {
  const index = names.get(name);
  if (index !== undefined) return index;
  throw new SandboxError(
    "ERR_NOT_FOUND",
    `a route or neighbour names the interface ${name}, which does not exist`,
  );
}
