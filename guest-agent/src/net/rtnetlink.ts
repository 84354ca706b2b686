/**
 * A routing netlink socket of the agent. Calls are synchronous: the kernel works on a request inside sendmsg and the
 * answers are readable when that returns. The messages themselves are built by src/netlink.
 */
import * as sys from "sys";
import { SandboxError } from "../../../src/base/errors.ts";
import { listAttributes, viewOf } from "../../../src/netlink/attribute.ts";
import {
  decodeMessages,
  encodeBatch,
  type NetlinkMessage,
  type NetlinkRequest,
  NLMSG_DONE,
  NLMSG_ERROR,
  Nlm,
} from "../../../src/netlink/message.ts";
import { AF_NETLINK, SOCK_RAW } from "../linux.ts";

/** linux/netlink.h */
const NETLINK_ROUTE = 0;
const SOL_NETLINK = 270;
const NETLINK_CAP_ACK = 10;
const NETLINK_EXT_ACK = 11;
/** NLMSGERR_ATTR_MSG: the kernel's own words, an attribute of an error message. */
const NLMSGERR_ATTR_MSG = 1;
/** With NETLINK_CAP_ACK an error message is errno (4 bytes) and the request's header (16). */
const ERROR_LENGTH = 20;
/** Bytes of requests per datagram, well below the default send buffer (net.core.wmem_default, 212992). */
const BATCH_BYTES = 32_768;
const RECEIVE_BYTES = 65_536;

/** A request that the kernel refused. */
export class NetlinkError extends SandboxError {
  /** Positive errno. */
  readonly errno: number;

  constructor(request: NetlinkRequest, errno: number, detail: string | undefined) {
    const text = detail === undefined ? "" : ` (${detail})`;
    super("ERR_INVALID_ARGUMENT", `${request.what} failed with errno ${errno}${text}`, { fields: { errno } });
    this.errno = errno;
  }
}

export class RtnetlinkSocket {
  readonly #fd: number;
  readonly #buffer = new Uint8Array(RECEIVE_BYTES);
  #sequence = 1;

  constructor() {
    this.#fd = sys.socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
    sys.bindNetlink(this.#fd, 0);
    sys.setsockopt(this.#fd, SOL_NETLINK, NETLINK_CAP_ACK, 1);
    sys.setsockopt(this.#fd, SOL_NETLINK, NETLINK_EXT_ACK, 1);
  }

  close(): void {
    sys.close(this.#fd);
  }

  /** Carries out the requests in order. @throws NetlinkError of the first that failed; later ones were tried too. */
  execute(
    requests: readonly NetlinkRequest[],
    tolerate: (error: NetlinkError) => boolean = () => false,
  ): void {
    let batch: NetlinkRequest[] = [];
    let bytes = 0;
    let failure: NetlinkError | undefined;
    const flush = () => {
      const errors = this.#executeBatch(batch).filter((error) => !tolerate(error));
      failure ??= errors[0];
      batch = [];
      bytes = 0;
    };
    for (const request of requests) {
      if (bytes + request.payload.length > BATCH_BYTES && batch.length > 0) flush();
      batch.push(request);
      bytes += request.payload.length + 32;
    }
    if (batch.length > 0) flush();
    if (failure !== undefined) throw failure;
  }

  /** The messages that answer a dump request. @throws NetlinkError */
  dump(request: NetlinkRequest): NetlinkMessage[] {
    const sequence = this.#send([request]);
    const found: NetlinkMessage[] = [];
    for (;;) {
      for (const message of this.#receive()) {
        if (message.sequence !== sequence) continue;
        if (message.type === NLMSG_DONE) return found;
        if (message.type === NLMSG_ERROR) {
          const error = readError(request, message);
          if (error !== undefined) throw error;
          return found;
        }
        found.push({ ...message, payload: message.payload.slice() });
      }
    }
  }

  #executeBatch(batch: readonly NetlinkRequest[]): NetlinkError[] {
    const first = this.#send(batch);
    const errors: NetlinkError[] = [];
    for (let pending = batch.length; pending > 0; ) {
      for (const message of this.#receive()) {
        const request = batch[message.sequence - first];
        if (message.type !== NLMSG_ERROR || request === undefined) continue;
        pending--;
        const error = readError(request, message);
        if (error !== undefined) errors.push(error);
      }
    }
    return errors;
  }

  /** @returns the sequence number of the first request. */
  #send(batch: readonly NetlinkRequest[]): number {
    const first = this.#sequence;
    this.#sequence += batch.length;
    sys.write(this.#fd, encodeBatch(batch, first));
    return first;
  }

  #receive(): NetlinkMessage[] {
    const length = sys.read(this.#fd, this.#buffer);
    return decodeMessages(this.#buffer.subarray(0, length));
  }
}

function readError(request: NetlinkRequest, message: NetlinkMessage): NetlinkError | undefined {
  const errno = -viewOf(message.payload).getInt32(0, true);
  if (errno === 0) return undefined;
  let detail: string | undefined;
  if ((message.flags & Nlm.AckTlvs) !== 0) {
    const text = listAttributes(message.payload, ERROR_LENGTH).find(({ type }) => type === NLMSGERR_ATTR_MSG);
    if (text !== undefined) detail = sys.decodeUtf8(text.value.subarray(0, -1));
  }
  return new NetlinkError(request, errno, detail);
}
