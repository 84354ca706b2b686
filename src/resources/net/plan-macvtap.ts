/**
 * The model macvtap: a macvtap in bridge mode on the pod's interface, with the MAC that CNI gave the pod; the interface
 * itself gets another MAC and loses its addresses, because it still receives what is sent to all. For kernels that
 * refuse the tc redirect. Differences from the others: frames to a foreign unicast address do not reach the guest.
 *
 * Everything that is taken away is put back by the undo: MAC, IPv6, addresses, routes.
 */
import { randomBytes, randomInt } from "node:crypto";
import { existsSync } from "node:fs";
import { SandboxError } from "../../base/errors.ts";
import {
  type Address,
  type AddressOptions,
  AF_INET,
  AF_INET6,
  addAddress,
  addMacvtap,
  addRoute,
  deleteAddress,
  Errno,
  formatMac,
  IfaFlag,
  Iff,
  isIpv6LinkLocal,
  type Link,
  parseCidr,
  type Route,
  RouteProtocol,
  RouteTable,
  setLink,
} from "../../netlink/index.ts";
import { type PlannedNic, type PlanStep, saveRequest, type WiringPlan } from "./plan.ts";
import type { PodState } from "./pod-state.ts";
import type { TapQueues } from "./tap-device.ts";

/** /dev/tapN is shared by all namespaces, so N is drawn from a range that no namespace counts up to. */
const INDEX_BASE = 8192;
const INDEX_RANGE = 65536;
const INDEX_ATTEMPTS = 128;

/** @throws SandboxError ERR_EXHAUSTED */
export function chooseMacvtapIndex(): number {
  for (let attempt = 0; attempt < INDEX_ATTEMPTS; attempt++) {
    const index = INDEX_BASE + randomInt(INDEX_RANGE);
    if (!existsSync(`/dev/tap${index}`)) return index;
  }
  throw new SandboxError("ERR_EXHAUSTED", "found no free macvtap number: remove unused macvtap interfaces");
}

export interface MacvtapTarget {
  readonly link: Link;
  readonly tap: TapQueues;
}

export function planMacvtap(state: PodState, targets: readonly MacvtapTarget[]): WiringPlan {
  return {
    model: "macvtap",
    nics: targets.map(
      ({ link, tap }): PlannedNic => ({ ifname: link.name, tap, mac: link.mac, mtu: link.mtu }),
    ),
    steps: targets.flatMap((target) =>
      [...clearSteps(state, target.link), ...macvtapSteps(target)].map((step) => ({
        ...step,
        nic: target.tap.name,
      })),
    ),
  };
}

/** Takes addresses and MAC from the pod's interface. The undo is of the first step, so it runs last. */
function clearSteps(state: PodState, link: Link): PlanStep[] {
  const own = state.addresses.filter((entry) => entry.index === link.index);
  const addresses = own.filter((entry) => !isIpv6LinkLocal(parseCidr(entry.address).address));
  const routes = state.routes.filter((route) => isRestorable(route, link.index)).sort(onLinkFirst);
  const v6 = `ipv6/conf/${link.name}/disable_ipv6`;
  const hadV6 = own.some((entry) => entry.family === AF_INET6);
  const newMac = formatMac(Uint8Array.of(0x02, ...randomBytes(5)));
  return [
    {
      name: `keeping the addresses of ${link.name}`,
      action: { do: "route", request: setLink(link.index, {}, link.name) },
      undo: {
        undo: "requests",
        index: link.index,
        requests: [
          ...addresses.map((entry) => saveRequest(addAddress(link.index, entry.address, restored(entry)))),
          ...routes.map((route) => saveRequest(addRoute(route))),
        ],
      },
    },
    {
      name: `IPv6 off on ${link.name}`,
      action: { do: "sysctl", key: v6, value: "1" },
      ...(hadV6 ? { undo: { undo: "sysctl", key: v6, value: "0" } as const } : {}),
    },
    ...addresses
      .filter((entry) => entry.family === AF_INET)
      .map((entry): PlanStep => {
        const request = deleteAddress(link.index, entry.address, { peer: entry.peer });
        return {
          name: `no ${entry.address} on ${link.name}`,
          action: { do: "route", request, tolerate: [Errno.EADDRNOTAVAIL] },
        };
      }),
    {
      name: `another MAC on ${link.name}`,
      action: { do: "route", request: setLink(link.index, { mac: newMac }, link.name) },
      undo: {
        undo: "requests",
        index: link.index,
        requests: [saveRequest(setLink(link.index, { mac: link.mac }, link.name))],
      },
    },
  ];
}

/** Everything about the address; it was in use a moment ago, so it needs no duplicate detection. */
function restored(entry: Address): AddressOptions {
  const { broadcast, scope, peer } = entry;
  const kept = entry.flags & IfaFlag.NoPrefixRoute;
  return { broadcast, scope, peer, flags: kept | (entry.family === AF_INET6 ? IfaFlag.NoDad : 0) };
}

function isRestorable(route: Route, index: number): boolean {
  return (
    (route.family === AF_INET || route.family === AF_INET6) &&
    route.table !== RouteTable.Local &&
    route.protocol !== RouteProtocol.Kernel &&
    !route.cloned &&
    (route.index === index || route.nextHops.some((hop) => hop.index === index))
  );
}

function onLinkFirst(a: Route, b: Route): number {
  const rank = (route: Route) => (route.gateway === "" && route.nextHops.length === 0 ? 0 : 1);
  return rank(a) - rank(b);
}

function macvtapSteps({ link, tap }: MacvtapTarget): PlanStep[] {
  const { name, index, queues } = tap;
  return [
    {
      name: `the macvtap ${name}`,
      action: {
        do: "route",
        request: addMacvtap({ name, index, lowerIndex: link.index, mac: link.mac, mtu: link.mtu, queues }),
      },
      undo: { undo: "link", index, name, kind: "macvtap" },
    },
    {
      name: `IPv6 off on ${name}`,
      action: { do: "sysctl", key: `ipv6/conf/${name}/disable_ipv6`, value: "1" },
    },
    { name: `the queues of ${name}`, action: { do: "macvtap", tap } },
    {
      // All multicast: the guest's own filter is not known here, and IPv6 needs its neighbours' multicast.
      name: `${name} up`,
      action: { do: "route", request: setLink(index, { up: true, flags: Iff.AllMulti }, name) },
    },
  ];
}
