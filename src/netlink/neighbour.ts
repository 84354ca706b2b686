/** Neighbour entries: struct ndmsg (12 bytes) and NDA_*, linux/neighbour.h. */
import { attrBytes, concat, headerView, parseAttributes, viewOf } from "./attribute.ts";
import { AF_UNSPEC, familyOf, formatIp, formatMac, parseIp, parseMac } from "./ip-address.ts";
import { type NetlinkRequest, Nlm } from "./message.ts";

export const RTM_NEWNEIGH = 28;
export const RTM_DELNEIGH = 29;
export const RTM_GETNEIGH = 30;

const NDMSG = 12;
const Nda = { Destination: 1, LinkAddress: 2 } as const;

/** NUD_*, linux/neighbour.h. */
export const Nud = { Reachable: 0x02, NoArp: 0x40, Permanent: 0x80 } as const;
/** NTF_*, linux/neighbour.h. */
export const Ntf = { Proxy: 0x08, Router: 0x80 } as const;

export interface Neighbour {
  readonly family: number;
  readonly index: number;
  readonly address: string;
  readonly mac: string;
  /** NUD_* */
  readonly state: number;
  /** NTF_* */
  readonly flags: number;
}

/** The message payload of RTM_NEWNEIGH or RTM_DELNEIGH. */
export function parseNeighbour(payload: Uint8Array): Neighbour {
  const view = headerView(payload, NDMSG, "a neighbour");
  const attributes = parseAttributes(payload, NDMSG);
  const address = attributes.get(Nda.Destination);
  return {
    family: payload[0] ?? 0,
    index: view.getInt32(4, true),
    address: address === undefined ? "" : formatIp(address),
    mac: formatMac(attributes.get(Nda.LinkAddress) ?? new Uint8Array(0)),
    state: view.getUint16(8, true),
    flags: payload[10] ?? 0,
  };
}

export function dumpNeighbours(family: number = AF_UNSPEC): NetlinkRequest {
  const head = new Uint8Array(NDMSG);
  head[0] = family;
  return { type: RTM_GETNEIGH, flags: Nlm.Dump, payload: head, what: "listing the neighbours" };
}

function neighbourPayload(entry: Omit<Neighbour, "family">): Uint8Array {
  const address = parseIp(entry.address);
  const head = new Uint8Array(NDMSG);
  const view = viewOf(head);
  head[0] = familyOf(address);
  view.setInt32(4, entry.index, true);
  view.setUint16(8, entry.state, true);
  head[10] = entry.flags;
  return concat(
    head,
    attrBytes(Nda.Destination, address),
    ...(entry.mac === "" ? [] : [attrBytes(Nda.LinkAddress, parseMac(entry.mac))]),
  );
}

/** Adds or replaces an entry; `mac` empty for a proxy entry. */
export function setNeighbour(entry: Omit<Neighbour, "family">): NetlinkRequest {
  return {
    type: RTM_NEWNEIGH,
    flags: Nlm.Create | Nlm.Replace,
    payload: neighbourPayload(entry),
    what: `adding the neighbour ${entry.address}`,
  };
}

/** ENOENT when it is not there. */
export function deleteNeighbour(entry: Pick<Neighbour, "index" | "address" | "flags">): NetlinkRequest {
  return {
    type: RTM_DELNEIGH,
    flags: 0,
    // The kernel looks at NTF_PROXY only.
    payload: neighbourPayload({ ...entry, mac: "", state: 0 }),
    what: `removing the neighbour ${entry.address}`,
  };
}
