/** Traffic control: struct tcmsg (20 bytes), qdiscs and filters, linux/rtnetlink.h and linux/pkt_sched.h. */
import {
  type Attributes,
  attrPlainNest,
  attrString,
  concat,
  headerView,
  nested,
  parseAttributes,
  readString,
  readU32,
  viewOf,
} from "./attribute.ts";
import { type NetlinkRequest, Nlm } from "./message.ts";

export const RTM_NEWQDISC = 36;
export const RTM_DELQDISC = 37;
export const RTM_GETQDISC = 38;
export const RTM_NEWTFILTER = 44;
export const RTM_DELTFILTER = 45;
export const RTM_GETTFILTER = 46;

const TCMSG = 20;
const Tca = { Kind: 1, Options: 2, Stats2: 7, Chain: 11 } as const;

/** TC_H_ROOT. */
export const TC_ROOT = 0xffffffff;
/** TC_H_INGRESS = TC_H_CLSACT: the parent of both the `ingress` and the `clsact` qdisc. */
export const TC_INGRESS_PARENT = 0xfffffff1;
/** The handle of both, and the parent of a filter on `ingress`. */
export const TC_INGRESS_HANDLE = 0xffff0000;
/** TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS): parent of a filter on the inbound side of `clsact`. */
export const TC_CLSACT_IN = 0xfffffff2;
/** TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS). */
export const TC_CLSACT_OUT = 0xfffffff3;

/** ETH_P_ALL, linux/if_ether.h. */
export const ETH_P_ALL = 0x0003;

/** What a qdisc or filter hangs on, and which one it is. */
export interface TcAddress {
  readonly index: number;
  readonly parent: number;
  readonly handle: number;
  /** Filters only: order of evaluation, 1 first; 0 lets the kernel choose. */
  readonly preference?: number;
  /** Filters only: an ethertype; ETH_P_ALL for all. */
  readonly protocol?: number;
}

function tcmsg(address: TcAddress): Uint8Array {
  const bytes = new Uint8Array(TCMSG);
  const view = viewOf(bytes);
  view.setInt32(4, address.index, true);
  view.setUint32(8, address.handle, true);
  view.setUint32(12, address.parent, true);
  // tcm_info of a filter: preference in the high half, ethertype in network order in the low half.
  view.setUint16(16, swap16(address.protocol ?? 0), true);
  view.setUint16(18, address.preference ?? 0, true);
  return bytes;
}

function swap16(value: number): number {
  return ((value & 0xff) << 8) | (value >> 8);
}

// ---- Qdiscs ----

export type IngressKind = "ingress" | "clsact";

export interface Qdisc {
  readonly index: number;
  readonly kind: string;
  readonly handle: number;
  readonly parent: number;
  readonly stats: TcStats | undefined;
}

export interface TcStats {
  readonly bytes: number;
  readonly packets: number;
  readonly drops: number;
}

export function dumpQdiscs(): NetlinkRequest {
  const payload = tcmsg({ index: 0, parent: 0, handle: 0 });
  return { type: RTM_GETQDISC, flags: Nlm.Dump, payload, what: "listing the qdiscs" };
}

/** Adds the `ingress` or `clsact` qdisc. EEXIST: one of the two is there; EBUSY: an old one is still in use. */
export function addIngressQdisc(index: number, kind: IngressKind, label: string): NetlinkRequest {
  return {
    type: RTM_NEWQDISC,
    flags: Nlm.Create | Nlm.Exclusive,
    payload: concat(
      tcmsg({ index, parent: TC_INGRESS_PARENT, handle: TC_INGRESS_HANDLE }),
      attrString(Tca.Kind, kind),
    ),
    what: `adding the ${kind} qdisc of ${label}`,
  };
}

export function deleteIngressQdisc(index: number, label: string): NetlinkRequest {
  return {
    type: RTM_DELQDISC,
    flags: 0,
    payload: tcmsg({ index, parent: TC_INGRESS_PARENT, handle: TC_INGRESS_HANDLE }),
    what: `removing the ingress qdisc of ${label}`,
  };
}

/** Replaces the root qdisc by one without options, such as "noqueue". */
export function setRootQdisc(index: number, kind: string, label: string): NetlinkRequest {
  return {
    type: RTM_NEWQDISC,
    flags: Nlm.Create | Nlm.Replace,
    payload: concat(tcmsg({ index, parent: TC_ROOT, handle: 0 }), attrString(Tca.Kind, kind)),
    what: `setting the root qdisc of ${label} to ${kind}`,
  };
}

/** The message payload of RTM_NEWQDISC or RTM_DELQDISC. */
export function parseQdisc(payload: Uint8Array): Qdisc {
  const view = headerView(payload, TCMSG, "a queueing discipline");
  const attributes = parseAttributes(payload, TCMSG);
  return {
    index: view.getInt32(4, true),
    handle: view.getUint32(8, true),
    parent: view.getUint32(12, true),
    kind: readString(attributes, Tca.Kind) ?? "",
    stats: parseStats(nested(attributes, Tca.Stats2)),
  };
}

/** TCA_STATS_BASIC (u64 bytes, u32 packets) and TCA_STATS_QUEUE (drops at byte 8), linux/gen_stats.h. */
export function parseStats(attributes: Attributes | undefined): TcStats | undefined {
  const basic = attributes?.get(1);
  if (basic === undefined || basic.length < 12) return undefined;
  const queue = attributes?.get(3);
  const view = viewOf(basic);
  return {
    bytes: Number(view.getBigUint64(0, true)),
    packets: view.getUint32(8, true),
    drops: queue === undefined || queue.length < 12 ? 0 : viewOf(queue).getUint32(8, true),
  };
}

// ---- Filters ----

export interface Filter {
  readonly index: number;
  readonly parent: number;
  readonly handle: number;
  readonly preference: number;
  readonly protocol: number;
  readonly kind: string;
  readonly chain: number;
  /** TCA_OPTIONS; for the codecs of the kinds (tc-u32.ts, tc-bpf.ts). */
  readonly options: Attributes;
}

/** A filter of `kind` with its encoded options. `extraFlags`: Nlm.Create with Exclusive or Replace. */
export function newFilter(
  address: TcAddress,
  kind: string,
  options: readonly Uint8Array[],
  extraFlags: number,
  label: string,
): NetlinkRequest {
  return {
    type: RTM_NEWTFILTER,
    flags: extraFlags,
    payload: concat(tcmsg(address), attrString(Tca.Kind, kind), attrPlainNest(Tca.Options, ...options)),
    what: `adding the ${kind} filter of ${label}`,
  };
}

/** Removes one filter (its preference, handle and kind must be given). */
export function deleteFilter(address: TcAddress, kind: string, label: string): NetlinkRequest {
  return {
    type: RTM_DELTFILTER,
    flags: 0,
    payload: concat(tcmsg(address), attrString(Tca.Kind, kind)),
    what: `removing the ${kind} filter of ${label}`,
  };
}

/** All filters of one attachment point. Where there is no qdisc the answer is empty. */
export function dumpFilters(index: number, parent: number): NetlinkRequest {
  const payload = tcmsg({ index, parent, handle: 0 });
  return {
    type: RTM_GETTFILTER,
    flags: Nlm.Dump,
    payload,
    what: `listing the filters of interface ${index}`,
  };
}

/** The message payload of RTM_NEWTFILTER or RTM_DELTFILTER. */
export function parseFilter(payload: Uint8Array): Filter {
  const view = headerView(payload, TCMSG, "a filter");
  const attributes = parseAttributes(payload, TCMSG);
  return {
    index: view.getInt32(4, true),
    handle: view.getUint32(8, true),
    parent: view.getUint32(12, true),
    protocol: swap16(view.getUint16(16, true)),
    preference: view.getUint16(18, true),
    kind: readString(attributes, Tca.Kind) ?? "",
    chain: readU32(attributes, Tca.Chain) ?? 0,
    options: nested(attributes, Tca.Options) ?? new Map(),
  };
}
