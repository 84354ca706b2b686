/**
 * Netlink messages (struct nlmsghdr, linux/netlink.h): u32 length including the 16-byte header, u16 type, u16 flags,
 * u32 sequence number, u32 port id, payload, padded to 4 bytes. Several messages may share one datagram.
 */
import { align4, concat, viewOf } from "./attribute.ts";

export const NLMSG_HEADER = 16;

/** Control message types, linux/netlink.h. */
export const NLMSG_NOOP = 1;
export const NLMSG_ERROR = 2;
export const NLMSG_DONE = 3;
export const NLMSG_OVERRUN = 4;

/** Message flags, linux/netlink.h. */
export const Nlm = {
  Request: 0x1,
  Multi: 0x2,
  Ack: 0x4,
  /** The dump changed while it was read: what was received is not one consistent picture. */
  DumpInterrupted: 0x10,
  /** GET: NLM_F_ROOT | NLM_F_MATCH. */
  Dump: 0x300,
  /** NEW. */
  Replace: 0x100,
  Exclusive: 0x200,
  Create: 0x400,
  Append: 0x800,
  /** NLMSG_ERROR: the request's payload was cut off (NETLINK_CAP_ACK). */
  Capped: 0x100,
  /** NLMSG_ERROR: extended acknowledgement attributes follow. */
  AckTlvs: 0x200,
} as const;

/** A request as the codecs build it; the socket adds sequence number and NLM_F_REQUEST | NLM_F_ACK. */
export interface NetlinkRequest {
  readonly type: number;
  readonly flags: number;
  readonly payload: Uint8Array;
  /** What it does, for errors: "adding the ingress qdisc of eth0". */
  readonly what: string;
}

export interface NetlinkMessage {
  readonly type: number;
  readonly flags: number;
  readonly sequence: number;
  readonly portId: number;
  readonly payload: Uint8Array;
}

/** The bytes of one message, padded. */
export function encodeMessage(
  type: number,
  flags: number,
  sequence: number,
  payload: Uint8Array,
): Uint8Array {
  const length = NLMSG_HEADER + payload.length;
  const out = new Uint8Array(align4(length));
  const view = viewOf(out);
  view.setUint32(0, length, true);
  view.setUint16(4, type, true);
  view.setUint16(6, flags, true);
  view.setUint32(8, sequence, true);
  out.set(payload, NLMSG_HEADER);
  return out;
}

/** Requests as one datagram, numbered from `firstSequence`, each asking for an acknowledgement. */
export function encodeBatch(requests: readonly NetlinkRequest[], firstSequence: number): Uint8Array {
  return concat(
    ...requests.map((request, index) =>
      encodeMessage(
        request.type,
        request.flags | Nlm.Request | Nlm.Ack,
        (firstSequence + index) >>> 0,
        request.payload,
      ),
    ),
  );
}

/** The messages of one datagram, as views into it. Stops at a malformed length. */
export function decodeMessages(datagram: Uint8Array): NetlinkMessage[] {
  const view = viewOf(datagram);
  const messages: NetlinkMessage[] = [];
  let at = 0;
  while (at + NLMSG_HEADER <= datagram.length) {
    const length = view.getUint32(at, true);
    if (length < NLMSG_HEADER || at + length > datagram.length) break;
    messages.push({
      type: view.getUint16(at + 4, true),
      flags: view.getUint16(at + 6, true),
      sequence: view.getUint32(at + 8, true),
      portId: view.getUint32(at + 12, true),
      payload: datagram.subarray(at + NLMSG_HEADER, at + length),
    });
    at += align4(length);
  }
  return messages;
}
