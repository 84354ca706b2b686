/** Answers to netlink requests: acknowledgements, errors with the kernel's own text, dumps. */
import { align4, parseAttributes, readString, readU32, viewOf } from "./attribute.ts";
import { Errno, errnoName } from "./errno.ts";
import {
  decodeMessages,
  type NetlinkMessage,
  type NetlinkRequest,
  NLMSG_DONE,
  NLMSG_ERROR,
  NLMSG_HEADER,
  NLMSG_NOOP,
  NLMSG_OVERRUN,
  Nlm,
} from "./message.ts";

/** NLMSGERR_ATTR_*, linux/netlink.h. */
const ExtAck = { Message: 1, Offset: 2, MissingType: 5 } as const;

/** What the kernel said about one request. */
export interface NetlinkReply {
  /** 0 for success. */
  readonly errno: number;
  /** The kernel's explanation, when it gave one. */
  readonly kernelText: string | undefined;
  /** What a GET answered. */
  readonly messages: readonly NetlinkMessage[];
  /** No acknowledgement came: the request was not handled (a batch that was refused as a whole). */
  readonly missing: boolean;
  /** A dump whose subject changed meanwhile (NLM_F_DUMP_INTR), or of which messages were lost. */
  readonly interrupted: boolean;
}

/** A request that the kernel refused. `code` is the errno's name. */
export class NetlinkError extends Error {
  override readonly name = "NetlinkError";
  readonly code: string;
  readonly errno: number;
  readonly kernelText: string | undefined;

  constructor(what: string, errno: number, kernelText?: string) {
    const code = errnoName(errno);
    super(`${what}: ${code}${kernelText === undefined ? "" : ` (kernel: ${kernelText})`}`);
    this.code = code;
    this.errno = -errno;
    this.kernelText = kernelText;
  }
}

/** Error number and text of an NLMSG_ERROR or NLMSG_DONE message. */
export function parseAcknowledgement(message: NetlinkMessage): { errno: number; kernelText?: string } {
  const { payload, flags } = message;
  if (payload.length < 4) return { errno: 0 };
  const view = viewOf(payload);
  const errno = -view.getInt32(0, true);
  if ((flags & Nlm.AckTlvs) === 0) return { errno };
  let offset = 4;
  if (message.type === NLMSG_ERROR) {
    // The request follows: its header alone when it was capped or succeeded, else whole.
    const capped = (flags & Nlm.Capped) !== 0 || payload.length < 8;
    offset += capped ? NLMSG_HEADER : align4(Math.min(view.getUint32(4, true), payload.length));
  }
  const attributes = parseAttributes(payload, offset);
  const text = readString(attributes, ExtAck.Message);
  const missing = readU32(attributes, ExtAck.MissingType);
  if (text !== undefined) return { errno, kernelText: text };
  return missing === undefined ? { errno } : { errno, kernelText: `attribute ${missing} is missing` };
}

/** Sorts the datagrams that answer `count` requests numbered from `firstSequence`; entry i belongs to request i. */
export function sortReplies(
  datagrams: readonly Uint8Array[],
  firstSequence: number,
  count: number,
): NetlinkReply[] {
  const replies = Array.from({ length: count }, () => ({
    errno: 0,
    kernelText: undefined as string | undefined,
    messages: [] as NetlinkMessage[],
    missing: true,
    interrupted: false,
  }));
  for (const datagram of datagrams) {
    for (const message of decodeMessages(datagram)) {
      const reply = replies[(message.sequence - firstSequence) >>> 0];
      if (reply === undefined) continue;
      if ((message.flags & Nlm.DumpInterrupted) !== 0) reply.interrupted = true;
      switch (message.type) {
        case NLMSG_NOOP:
          break;
        case NLMSG_OVERRUN:
          reply.interrupted = true;
          break;
        case NLMSG_ERROR:
        case NLMSG_DONE: {
          const { errno, kernelText } = parseAcknowledgement(message);
          reply.missing = false;
          if (errno !== 0) reply.errno = errno;
          if (kernelText !== undefined) reply.kernelText = kernelText;
          break;
        }
        default:
          reply.messages.push(message);
      }
    }
  }
  return replies;
}

/** The messages of a reply. @throws NetlinkError when the kernel refused the request, or did not answer it. */
export function requireSuccess(request: NetlinkRequest, reply: NetlinkReply): readonly NetlinkMessage[] {
  if (reply.errno !== 0) throw new NetlinkError(request.what, reply.errno, reply.kernelText);
  if (reply.missing) throw new NetlinkError(request.what, Errno.ECANCELED, "no acknowledgement came");
  return reply.messages;
}
