/**
 * nf_tables over nfnetlink: struct nfgenmsg (u8 family, u8 version 0, be16 resource id), messages of subsystem 10,
 * changes in a batch between NFNL_MSG_BATCH_BEGIN and _END that takes effect as a whole or not at all.
 * linux/netfilter/nfnetlink.h and linux/netfilter/nf_tables.h. Numbers in attributes are in network order.
 */
import {
  attrBe32,
  attrBytes,
  attrNest,
  attrString,
  concat,
  nested,
  parseAttributes,
  readString,
  viewOf,
} from "./attribute.ts";
import { encodeMessage, type NetlinkRequest, Nlm } from "./message.ts";

const NFNL_SUBSYS_NFTABLES = 10;
const NFNL_MSG_BATCH_BEGIN = 0x10;
const NFNL_MSG_BATCH_END = 0x11;
/** NFPROTO_*, linux/netfilter.h. */
export const NFPROTO_UNSPEC = 0;
export const NFPROTO_NETDEV = 5;
/** The names that nft gives the families. */
export const nftFamilyName: Readonly<Record<number, string>> = {
  1: "inet",
  2: "ip",
  3: "arp",
  5: "netdev",
  7: "bridge",
  10: "ip6",
};

/** NFT_MSG_*. */
const NftMsg = { NewTable: 0, GetTable: 1, DelTable: 2, NewChain: 3, GetChain: 4, GetRule: 7 } as const;
const NftaTable = { Name: 1 } as const;
const NftaChain = { Table: 1, Name: 3, Hook: 4, Policy: 5, Type: 7, Counters: 8 } as const;
const NftaRule = { Table: 1, Chain: 2 } as const;
const NftaHook = { Number: 1, Priority: 2, Device: 3 } as const;
const NftaCounter = { Bytes: 1, Packets: 2 } as const;

/** NF_NETDEV_INGRESS and NF_NETDEV_EGRESS, linux/netfilter.h. */
export const NetdevHook = { Ingress: 0, Egress: 1 } as const;
/** NF_DROP and NF_ACCEPT. */
export const Verdict = { Drop: 0, Accept: 1 } as const;

function nfgenmsg(family: number, resource = 0): Uint8Array {
  return Uint8Array.of(family, 0, resource >> 8, resource & 0xff);
}

function nftRequest(
  message: number,
  flags: number,
  family: number,
  what: string,
  ...attributes: Uint8Array[]
): NetlinkRequest {
  return {
    type: (NFNL_SUBSYS_NFTABLES << 8) | message,
    flags,
    payload: concat(nfgenmsg(family), ...attributes),
    what,
  };
}

export function addTable(family: number, name: string): NetlinkRequest {
  const what = `adding the nftables table ${name}`;
  return nftRequest(NftMsg.NewTable, Nlm.Create, family, what, attrString(NftaTable.Name, name));
}

/** Removes a table with all its chains. ENOENT when there is none. */
export function deleteTable(family: number, name: string): NetlinkRequest {
  const what = `removing the nftables table ${name}`;
  return nftRequest(NftMsg.DelTable, 0, family, what, attrString(NftaTable.Name, name));
}

export interface NetdevChain {
  readonly table: string;
  readonly name: string;
  readonly device: string;
  /** NetdevHook */
  readonly hook: number;
  readonly priority: number;
  /** Verdict */
  readonly policy: number;
}

/** A base chain of the netdev family without rules: its policy decides, its counter counts. */
export function addNetdevChain(chain: NetdevChain): NetlinkRequest {
  const zero = new Uint8Array(8);
  return nftRequest(
    NftMsg.NewChain,
    Nlm.Create,
    NFPROTO_NETDEV,
    `adding the nftables chain ${chain.name} on ${chain.device}`,
    attrString(NftaChain.Table, chain.table),
    attrString(NftaChain.Name, chain.name),
    attrNest(
      NftaChain.Hook,
      attrBe32(NftaHook.Number, chain.hook),
      attrBe32(NftaHook.Priority, chain.priority),
      attrString(NftaHook.Device, chain.device),
    ),
    attrBe32(NftaChain.Policy, chain.policy),
    attrString(NftaChain.Type, "filter"),
    attrNest(NftaChain.Counters, attrBytes(NftaCounter.Bytes, zero), attrBytes(NftaCounter.Packets, zero)),
  );
}

export function dumpChains(family: number): NetlinkRequest {
  return nftRequest(NftMsg.GetChain, Nlm.Dump, family, "listing the nftables chains");
}

export interface ChainInfo {
  readonly family: number;
  readonly table: string;
  readonly name: string;
  readonly device: string;
  readonly hook: number | undefined;
  readonly policy: number | undefined;
  readonly packets: number;
  readonly bytes: number;
}

export function dumpNftRules(family: number): NetlinkRequest {
  return nftRequest(NftMsg.GetRule, Nlm.Dump, family, "listing the nftables rules");
}

/** Where a rule is; what it says is not decoded. The message payload of NFT_MSG_NEWRULE. */
export function parseNftRule(payload: Uint8Array): { family: number; table: string; chain: string } {
  const attributes = parseAttributes(payload, 4);
  return {
    family: payload[0] ?? 0,
    table: readString(attributes, NftaRule.Table) ?? "",
    chain: readString(attributes, NftaRule.Chain) ?? "",
  };
}

/** The message payload of NFT_MSG_NEWCHAIN. */
export function parseChain(payload: Uint8Array): ChainInfo {
  const attributes = parseAttributes(payload, 4);
  const hook = nested(attributes, NftaChain.Hook);
  const counters = nested(attributes, NftaChain.Counters);
  const be32 = (value: Uint8Array | undefined) =>
    value === undefined || value.length < 4 ? undefined : viewOf(value).getUint32(0, false);
  const be64 = (value: Uint8Array | undefined) =>
    value === undefined || value.length < 8 ? 0 : Number(viewOf(value).getBigUint64(0, false));
  return {
    family: payload[0] ?? 0,
    table: readString(attributes, NftaChain.Table) ?? "",
    name: readString(attributes, NftaChain.Name) ?? "",
    device: hook === undefined ? "" : (readString(hook, NftaHook.Device) ?? ""),
    hook: be32(hook?.get(NftaHook.Number)),
    policy: be32(attributes.get(NftaChain.Policy)),
    packets: be64(counters?.get(NftaCounter.Packets)),
    bytes: be64(counters?.get(NftaCounter.Bytes)),
  };
}

/**
 * The bytes of a batch: begin, the requests numbered from `firstSequence`, end. Begin and end use the numbers after
 * those of the requests and ask for no acknowledgement, which kernels before 6.10 did not give.
 */
export function encodeNftBatch(requests: readonly NetlinkRequest[], firstSequence: number): Uint8Array {
  const frame = nfgenmsg(0, NFNL_SUBSYS_NFTABLES);
  const after = firstSequence + requests.length;
  return concat(
    encodeMessage(NFNL_MSG_BATCH_BEGIN, Nlm.Request, after, frame),
    ...requests.map((request, i) =>
      encodeMessage(
        request.type,
        request.flags | Nlm.Request | Nlm.Ack,
        (firstSequence + i) >>> 0,
        request.payload,
      ),
    ),
    encodeMessage(NFNL_MSG_BATCH_END, Nlm.Request, after + 1, frame),
  );
}
