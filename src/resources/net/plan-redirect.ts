/**
 * The models tcfilter and ebpf: a tap beside the pod's interface and, on the ingress side of both, one filter that
 * sends every frame out of the other. Such a frame never meets the namespace's own IP stack or netfilter.
 *
 *     guest <-> tap0_caisson  ingress: redirect ->  eth0 egress         <-> host end of the veth
 *                     egress  <- redirect :ingress  eth0
 *
 * Guard chains (netdev family, policy drop) see only what the filters let through: nothing, unless a filter is lost.
 * Then the kernel would answer for the pod with the pod's addresses ("ghost pod"). On the egress side they stop what
 * the namespace's own stack originates; redirected frames carry a mark that makes the kernel skip that hook.
 */
import { SandboxError } from "../../base/errors.ts";
import {
  addIngressQdisc,
  addNetdevChain,
  addTable,
  ETH_P_ALL,
  encodeU32,
  type Filter,
  type IngressKind,
  type Link,
  MirredAction,
  NetdevHook,
  NFPROTO_NETDEV,
  Nlm,
  newFilter,
  type Qdisc,
  setLink,
  setRootQdisc,
  TC_CLSACT_IN,
  TC_INGRESS_HANDLE,
  TcAction,
  U32_MATCH_ALL,
  Verdict,
} from "../../netlink/index.ts";
import { dropProgram, redirectProgram } from "./bpf-program.ts";
import type { PlannedNic, PlanStep, WiringPlan } from "./plan.ts";
import type { TapQueues } from "./tap-device.ts";

/** The nftables table (family netdev) with the guard chains of a tap and its interface. */
export function guardTable(tap: string): string {
  return `caisson_guard_${tap.replace("_caisson", "")}`;
}

/** After every foreign chain, so that only what nobody else took is dropped. */
const GUARD_PRIORITY = 1000;
/** The kernel's first choice when it picks a preference itself (tcf_auto_prio), as tc shows it. */
const PREFERENCE = 0xc000;
const LAST_PREFERENCE = 0xffff;

/** One interface to be wired, and what is on its ingress side already. */
export interface RedirectTarget {
  readonly link: Link;
  readonly tap: TapQueues;
  /** Its ingress or clsact qdisc, when somebody else made one. */
  readonly present: Qdisc | undefined;
  /** Filters that somebody else put there; ours go behind them. */
  readonly foreign: readonly Filter[];
}

/** @throws SandboxError ERR_EXHAUSTED when foreign filters leave no place behind them. */
export function planRedirect(model: "tcfilter" | "ebpf", targets: readonly RedirectTarget[]): WiringPlan {
  const nics = targets.map(
    ({ link, tap }): PlannedNic => ({ ifname: link.name, tap, mac: link.mac, mtu: link.mtu }),
  );
  const kind: IngressKind = model === "ebpf" ? "clsact" : "ingress";
  return {
    model,
    nics,
    steps: targets.flatMap((target) =>
      [
        ...tapSteps(target),
        guardStep(kind, target),
        ...upSteps(target),
        ...redirectSteps(model, kind, target),
      ].map((step) => ({ ...step, nic: target.tap.name })),
    ),
  };
}

/** The tap exists but is down, and its IPv6 is off before it comes up: it never sends a frame of its own. */
function tapSteps({ tap }: RedirectTarget): PlanStep[] {
  return [
    {
      name: `the tap ${tap.name}`,
      action: { do: "tap", tap },
      undo: { undo: "link", index: tap.index, name: tap.name, kind: "tun" },
    },
    {
      name: `IPv6 off on ${tap.name}`,
      action: { do: "sysctl", key: `ipv6/conf/${tap.name}/disable_ipv6`, value: "1" },
    },
  ];
}

function guardStep(kind: IngressKind, target: RedirectTarget): PlanStep {
  const devices = [target.link.name, target.tap.name];
  const table = guardTable(target.tap.name);
  const chain = (device: string, side: "in" | "out") =>
    addNetdevChain({
      table,
      name: `${device}-${side}`,
      device,
      hook: side === "in" ? NetdevHook.Ingress : NetdevHook.Egress,
      priority: GUARD_PRIORITY,
      policy: Verdict.Drop,
    });
  return {
    name: "the guard chains",
    action: {
      do: "nft",
      requests: [
        addTable(NFPROTO_NETDEV, table),
        ...devices.flatMap((device) => [chain(device, "in"), chain(device, "out")]),
      ],
      refused: "the kernel has no nf_tables netdev family, so a last tc filter guards instead",
      otherwise: [lastFilterStep(kind, target)],
    },
    undo: { undo: "nft-table", name: table },
  };
}

/** Drops what the redirect let through; the second choice, because it goes with the qdisc. */
function lastFilterStep(kind: IngressKind, { link, present }: RedirectTarget): PlanStep {
  const parent = filterParent(present?.kind ?? kind);
  const programName = "caisson_guard";
  const preference = LAST_PREFERENCE;
  const label = `guard of ${link.name}`;
  return {
    name: `the ${label}`,
    action: {
      do: "bpf-filter",
      program: dropProgram(),
      programName,
      index: link.index,
      parent,
      preference,
      label,
    },
    undo: { undo: "filter", index: link.index, parent, preference, kind: "bpf", target: programName },
  };
}

function filterParent(qdiscKind: string): number {
  return qdiscKind === "clsact" ? TC_CLSACT_IN : TC_INGRESS_HANDLE;
}

/** The tap has no queue of its own (its ring is one), and its MTU is that of the pod's interface. */
function upSteps({ link, tap }: RedirectTarget): PlanStep[] {
  return [
    {
      name: `no queueing on ${tap.name}`,
      action: { do: "route", request: setRootQdisc(tap.index, "noqueue", tap.name) },
    },
    {
      name: `${tap.name} up`,
      action: { do: "route", request: setLink(tap.index, { up: true, mtu: link.mtu }, tap.name) },
    },
  ];
}

function redirectSteps(model: "tcfilter" | "ebpf", kind: IngressKind, target: RedirectTarget): PlanStep[] {
  const { link, tap, foreign, present } = target;
  const qdisc = (index: number, name: string): PlanStep => ({
    name: `the ${kind} qdisc of ${name}`,
    action: { do: "route", request: addIngressQdisc(index, kind, name) },
    // That of the tap goes with the tap.
    ...(index === link.index ? { undo: { undo: "qdisc", index, kind } as const } : {}),
  });
  const preference = behind(foreign, link.name);
  return [
    qdisc(tap.index, tap.name),
    ...(present === undefined ? [qdisc(link.index, link.name)] : []),
    // From the guest first: nothing is sent to a guest that could not answer.
    filterStep(model, tap.index, tap.name, kind, PREFERENCE, link.index, false),
    filterStep(model, link.index, link.name, present?.kind ?? kind, preference, tap.index, true),
  ];
}

function behind(foreign: readonly Filter[], name: string): number {
  const last = Math.max(0, ...foreign.map((filter) => filter.preference));
  if (last >= LAST_PREFERENCE) {
    throw new SandboxError(
      "ERR_EXHAUSTED",
      `${name} has a tc filter of another owner at the last preference (65535): ours cannot be placed behind it`,
    );
  }
  return Math.max(PREFERENCE, last + 1);
}

function filterStep(
  model: "tcfilter" | "ebpf",
  index: number,
  name: string,
  qdiscKind: string,
  preference: number,
  to: number,
  undo: boolean,
): PlanStep {
  const parent = filterParent(qdiscKind);
  const label = `redirect of ${name}`;
  const programName = `caisson_${to}`;
  const mirred = { eaction: MirredAction.EgressRedirect, action: TcAction.Stolen, index: to };
  const address = { index, parent, handle: 0, preference, protocol: ETH_P_ALL };
  const options = encodeU32(U32_MATCH_ALL, mirred);
  return {
    name: `the ${label}`,
    action:
      model === "ebpf"
        ? { do: "bpf-filter", program: redirectProgram(to), programName, index, parent, preference, label }
        : { do: "route", request: newFilter(address, "u32", options, Nlm.Create | Nlm.Exclusive, name) },
    ...(undo
      ? {
          undo: {
            undo: "filter",
            index,
            parent,
            preference,
            kind: model === "ebpf" ? "bpf" : "u32",
            target: model === "ebpf" ? programName : to,
          } as const,
        }
      : {}),
  };
}
