/** Addresses of interfaces: struct ifaddrmsg (8 bytes) and IFA_*, linux/if_addr.h. */
import { attrBytes, attrU32, concat, headerView, parseAttributes, readU32, viewOf } from "./attribute.ts";
import { AF_UNSPEC, familyOf, formatIp, parseCidr, parseIp } from "./ip-address.ts";
import { type NetlinkRequest, Nlm } from "./message.ts";

export const RTM_NEWADDR = 20;
export const RTM_DELADDR = 21;
export const RTM_GETADDR = 22;

const IFADDRMSG = 8;
const Ifa = { Address: 1, Local: 2, Broadcast: 4, CacheInfo: 6, Flags: 8 } as const;

/** IFA_F_*, linux/if_addr.h. */
export const IfaFlag = {
  NoDad: 0x02,
  Permanent: 0x80,
  Tentative: 0x40,
  MngTmpAddr: 0x100,
  NoPrefixRoute: 0x200,
} as const;

export interface Address {
  readonly family: number;
  readonly index: number;
  /** The interface's own address in CIDR notation. */
  readonly address: string;
  /** Of a point-to-point link; absent elsewhere. */
  readonly peer: string | undefined;
  readonly broadcast: string | undefined;
  /** RT_SCOPE_* */
  readonly scope: number;
  readonly flags: number;
}

/** The message payload of RTM_NEWADDR or RTM_DELADDR. */
export function parseAddress(payload: Uint8Array): Address {
  const view = headerView(payload, IFADDRMSG, "an address");
  const attributes = parseAttributes(payload, IFADDRMSG);
  const prefix = payload[1] ?? 0;
  const address = attributes.get(Ifa.Address) ?? new Uint8Array(0);
  // IPv4 carries the own address in IFA_LOCAL; IFA_ADDRESS is then the peer, or the same again.
  const local = attributes.get(Ifa.Local) ?? address;
  const broadcast = attributes.get(Ifa.Broadcast);
  const isPeer = formatIp(local) !== formatIp(address);
  return {
    family: payload[0] ?? 0,
    index: view.getUint32(4, true),
    address: `${formatIp(local)}/${isPeer ? local.length * 8 : prefix}`,
    peer: isPeer ? `${formatIp(address)}/${prefix}` : undefined,
    broadcast: broadcast === undefined ? undefined : formatIp(broadcast),
    scope: payload[3] ?? 0,
    flags: readU32(attributes, Ifa.Flags) ?? payload[2] ?? 0,
  };
}

export function dumpAddresses(family: number = AF_UNSPEC): NetlinkRequest {
  const head = new Uint8Array(IFADDRMSG);
  head[0] = family;
  return { type: RTM_GETADDR, flags: Nlm.Dump, payload: head, what: "listing the addresses" };
}

/** What else than the address itself an IFA_* message may say. */
export interface AddressOptions {
  /** IFA_F_*; NoDad skips duplicate address detection. */
  readonly flags?: number;
  readonly broadcast?: string | undefined;
  /** RT_SCOPE_* */
  readonly scope?: number;
  /** The other end of a point-to-point link, CIDR. */
  readonly peer?: string | undefined;
}

function addressPayload(index: number, cidr: string, options: AddressOptions): Uint8Array {
  const { address, prefixLength } = parseCidr(cidr);
  const peer = options.peer === undefined ? { address, prefixLength } : parseCidr(options.peer);
  const head = new Uint8Array(IFADDRMSG);
  head[0] = familyOf(address);
  head[1] = peer.prefixLength;
  head[3] = options.scope ?? 0;
  viewOf(head).setUint32(4, index, true);
  const { broadcast, flags = 0 } = options;
  return concat(
    head,
    attrBytes(Ifa.Local, address),
    attrBytes(Ifa.Address, peer.address),
    ...(broadcast === undefined ? [] : [attrBytes(Ifa.Broadcast, parseIp(broadcast))]),
    ...(flags === 0 ? [] : [attrU32(Ifa.Flags, flags)]),
  );
}

/** Adds the address `cidr` to interface `index`; one that is there already gives EEXIST. */
export function addAddress(index: number, cidr: string, options: AddressOptions = {}): NetlinkRequest {
  return {
    type: RTM_NEWADDR,
    flags: Nlm.Create | Nlm.Exclusive,
    payload: addressPayload(index, cidr, options),
    what: `adding the address ${cidr}`,
  };
}

/** EADDRNOTAVAIL when it is not there. */
export function deleteAddress(
  index: number,
  cidr: string,
  options: Pick<AddressOptions, "peer"> = {},
): NetlinkRequest {
  return {
    type: RTM_DELADDR,
    flags: 0,
    payload: addressPayload(index, cidr, options),
    what: `removing the address ${cidr}`,
  };
}
