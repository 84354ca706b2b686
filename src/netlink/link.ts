/** Links: struct ifinfomsg (16 bytes) and IFLA_* attributes, linux/rtnetlink.h and linux/if_link.h. */
import {
  type Attributes,
  attrBytes,
  attrNest,
  attrString,
  attrU8,
  attrU32,
  concat,
  headerView,
  nested,
  parseAttributes,
  readS32,
  readString,
  readU8,
  readU32,
  readU64,
  viewOf,
} from "./attribute.ts";
import { AF_INET6, AF_UNSPEC, formatMac, parseMac } from "./ip-address.ts";
import { type NetlinkRequest, Nlm } from "./message.ts";

export const RTM_NEWLINK = 16;
export const RTM_DELLINK = 17;
export const RTM_GETLINK = 18;

const IFINFOMSG = 16;

/** IFLA_*, linux/if_link.h. */
const Ifla = {
  Address: 1,
  Ifname: 3,
  Mtu: 4,
  Link: 5,
  Qdisc: 6,
  Master: 10,
  TxQueueLength: 13,
  OperState: 16,
  LinkInfo: 18,
  NetNsPid: 19,
  Stats64: 23,
  AfSpec: 26,
  NetNsFd: 28,
  NumTxQueues: 31,
  NumRxQueues: 32,
  Carrier: 33,
  GsoMaxSize: 41,
  /** Nested under IFLA_LINKINFO. */
  InfoKind: 1,
  InfoData: 2,
  /** IFLA_INFO_DATA of veth, linux/veth.h VETH_INFO_PEER: an ifinfomsg and attributes of the peer. */
  VethPeer: 1,
  /** IFLA_INFO_DATA of macvlan and macvtap. */
  MacvlanMode: 1,
  /** Nested under IFLA_AF_SPEC, AF_INET6. */
  Inet6AddrGenMode: 8,
} as const;

/** MACVLAN_MODE_BRIDGE, linux/if_link.h. */
const MACVLAN_MODE_BRIDGE = 4;
/** IN6_ADDR_GEN_MODE_NONE, linux/if_link.h: the kernel makes no link-local address of its own. */
export const ADDR_GEN_MODE_NONE = 1;

/** IFF_*, linux/if.h. */
export const Iff = {
  Up: 0x1,
  Loopback: 0x8,
  NoArp: 0x80,
  Promisc: 0x100,
  AllMulti: 0x200,
  Running: 0x40,
} as const;
/** ARPHRD_*, linux/if_arp.h. */
export const ARPHRD_ETHER = 1;
export const ARPHRD_LOOPBACK = 772;

/** An interface as the kernel reports it. */
export interface Link {
  readonly index: number;
  readonly name: string;
  /** ARPHRD_* */
  readonly type: number;
  /** IFF_* */
  readonly flags: number;
  readonly mtu: number;
  readonly mac: string;
  /** "veth", "tun", "macvtap"; empty for hardware and loopback. */
  readonly kind: string;
  /** ifindex of the lower device or veth peer (0: none), in that device's namespace. */
  readonly parentIndex: number;
  readonly masterIndex: number;
  readonly qdisc: string;
  readonly txQueueLength: number;
  readonly carrier: boolean;
  readonly gsoMaxSize: number;
  readonly stats: LinkStats | undefined;
}

export interface LinkStats {
  readonly rxPackets: number;
  readonly txPackets: number;
  readonly rxBytes: number;
  readonly txBytes: number;
  readonly rxErrors: number;
  readonly txErrors: number;
  readonly rxDropped: number;
  readonly txDropped: number;
}

function ifinfomsg(index: number, flags = 0, change = 0, family = AF_UNSPEC): Uint8Array {
  const bytes = new Uint8Array(IFINFOMSG);
  const view = viewOf(bytes);
  bytes[0] = family;
  view.setInt32(4, index, true);
  view.setUint32(8, flags, true);
  view.setUint32(12, change >>> 0, true);
  return bytes;
}

/** The message payload of RTM_NEWLINK or RTM_DELLINK. */
export function parseLink(payload: Uint8Array): Link {
  const view = headerView(payload, IFINFOMSG, "a link");
  const attributes = parseAttributes(payload, IFINFOMSG);
  const info = nested(attributes, Ifla.LinkInfo);
  return {
    index: view.getInt32(4, true),
    name: readString(attributes, Ifla.Ifname) ?? "",
    type: view.getUint16(2, true),
    flags: view.getUint32(8, true),
    mtu: readU32(attributes, Ifla.Mtu) ?? 0,
    mac: formatMac(attributes.get(Ifla.Address) ?? new Uint8Array(0)),
    kind: info === undefined ? "" : (readString(info, Ifla.InfoKind) ?? ""),
    parentIndex: readS32(attributes, Ifla.Link) ?? 0,
    masterIndex: readU32(attributes, Ifla.Master) ?? 0,
    qdisc: readString(attributes, Ifla.Qdisc) ?? "",
    txQueueLength: readU32(attributes, Ifla.TxQueueLength) ?? 0,
    carrier: readU8(attributes, Ifla.Carrier) === 1,
    gsoMaxSize: readU32(attributes, Ifla.GsoMaxSize) ?? 0,
    get stats() {
      return parseStats(attributes);
    },
  };
}

/** struct rtnl_link_stats64: u64 each, in this order. */
function parseStats(attributes: Attributes): LinkStats | undefined {
  const value = attributes.get(Ifla.Stats64);
  if (value === undefined || value.length < 64) return undefined;
  const at = (index: number) => readU64(new Map([[0, value.subarray(index * 8)]]), 0) ?? 0;
  return {
    rxPackets: at(0),
    txPackets: at(1),
    rxBytes: at(2),
    txBytes: at(3),
    rxErrors: at(4),
    txErrors: at(5),
    rxDropped: at(6),
    txDropped: at(7),
  };
}

export function dumpLinks(): NetlinkRequest {
  return { type: RTM_GETLINK, flags: Nlm.Dump, payload: ifinfomsg(0), what: "listing the interfaces" };
}

export function getLink(name: string): NetlinkRequest {
  return {
    type: RTM_GETLINK,
    flags: 0,
    payload: concat(ifinfomsg(0), attrString(Ifla.Ifname, name)),
    what: `reading interface ${name}`,
  };
}

export interface LinkChange {
  readonly up?: boolean;
  /** Further IFF_* to be set. */
  readonly flags?: number;
  readonly mtu?: number;
  readonly mac?: string;
  readonly name?: string;
  readonly txQueueLength?: number;
  /** ADDR_GEN_MODE_NONE keeps the kernel from making a link-local address. */
  readonly addrGenMode?: number;
  /** Moves the interface to the namespace of this descriptor. */
  readonly netnsFd?: number;
}

/** Changes interface `index`; `label` names it in errors. */
export function setLink(index: number, change: LinkChange, label = `interface ${index}`): NetlinkRequest {
  const extra = change.flags ?? 0;
  const flags = (change.up === true ? Iff.Up : 0) | extra;
  return {
    type: RTM_NEWLINK,
    flags: 0,
    payload: concat(
      ifinfomsg(index, flags, (change.up === undefined ? 0 : Iff.Up) | extra),
      ...(change.mtu === undefined ? [] : [attrU32(Ifla.Mtu, change.mtu)]),
      ...(change.mac === undefined ? [] : [attrBytes(Ifla.Address, parseMac(change.mac))]),
      ...(change.name === undefined ? [] : [attrString(Ifla.Ifname, change.name)]),
      ...(change.txQueueLength === undefined ? [] : [attrU32(Ifla.TxQueueLength, change.txQueueLength)]),
      ...(change.addrGenMode === undefined ? [] : [addrGenMode(change.addrGenMode)]),
      ...(change.netnsFd === undefined ? [] : [attrU32(Ifla.NetNsFd, change.netnsFd)]),
    ),
    what: `configuring ${label}`,
  };
}

function addrGenMode(mode: number): Uint8Array {
  return attrNest(Ifla.AfSpec, attrNest(AF_INET6, attrU8(Ifla.Inet6AddrGenMode, mode)));
}

/** Creates a veth pair in the socket's namespace, the peer in that of `peerNetnsFd` when given. */
export function addVeth(name: string, peerName: string, peerNetnsFd?: number): NetlinkRequest {
  const peer = concat(
    ifinfomsg(0),
    attrString(Ifla.Ifname, peerName),
    ...(peerNetnsFd === undefined ? [] : [attrU32(Ifla.NetNsFd, peerNetnsFd)]),
  );
  return {
    type: RTM_NEWLINK,
    flags: Nlm.Create | Nlm.Exclusive,
    payload: concat(
      ifinfomsg(0),
      attrString(Ifla.Ifname, name),
      attrNest(
        Ifla.LinkInfo,
        attrString(Ifla.InfoKind, "veth"),
        attrNest(Ifla.InfoData, attrBytes(Ifla.VethPeer, peer)),
      ),
    ),
    what: `creating the veth pair ${name} and ${peerName}`,
  };
}

export interface MacvtapOptions {
  readonly name: string;
  /** Chosen by us: the character device is /dev/tap<index> for all namespaces together. */
  readonly index: number;
  readonly lowerIndex: number;
  readonly mac: string;
  readonly mtu: number;
  readonly queues: number;
}

/** Creates a macvtap in bridge mode on top of `lowerIndex`. */
export function addMacvtap(options: MacvtapOptions): NetlinkRequest {
  return {
    type: RTM_NEWLINK,
    flags: Nlm.Create | Nlm.Exclusive,
    payload: concat(
      ifinfomsg(options.index),
      attrString(Ifla.Ifname, options.name),
      attrU32(Ifla.Link, options.lowerIndex),
      attrBytes(Ifla.Address, parseMac(options.mac)),
      attrU32(Ifla.Mtu, options.mtu),
      attrU32(Ifla.NumTxQueues, options.queues),
      attrU32(Ifla.NumRxQueues, options.queues),
      attrNest(
        Ifla.LinkInfo,
        attrString(Ifla.InfoKind, "macvtap"),
        attrNest(Ifla.InfoData, attrU32(Ifla.MacvlanMode, MACVLAN_MODE_BRIDGE)),
      ),
    ),
    what: `creating the macvtap ${options.name}`,
  };
}

export function deleteLink(index: number, label = `interface ${index}`): NetlinkRequest {
  return { type: RTM_DELLINK, flags: 0, payload: ifinfomsg(index), what: `removing ${label}` };
}
