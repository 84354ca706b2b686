/**
 * Netlink attributes (struct nlattr, linux/netlink.h): u16 length including the 4-byte header, u16 type, value, padded
 * to 4 bytes. Numbers are in host order, which is little-endian on every machine this project runs on, unless the
 * protocol says network order.
 *
 * Writing is by composition: each function returns the bytes of one attribute, `concat` joins them.
 */

import { SandboxError } from "../base/errors.ts";

/** NLA_F_NESTED, linux/netlink.h: the value is a list of attributes. */
const NLA_F_NESTED = 0x8000;
/** NLA_TYPE_MASK, linux/netlink.h: without NLA_F_NESTED and NLA_F_NET_BYTEORDER. */
const NLA_TYPE_MASK = 0x3fff;
const HEADER = 4;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** Length rounded up to a multiple of 4 (NLA_ALIGN, NLMSG_ALIGN). */
export function align4(length: number): number {
  return (length + 3) & ~3;
}

export function concat(...parts: readonly Uint8Array[]): Uint8Array {
  let length = 0;
  for (const part of parts) length += part.length;
  const out = new Uint8Array(length);
  let offset = 0;
  for (const part of parts) {
    out.set(part, offset);
    offset += part.length;
  }
  return out;
}

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** A view of a message that begins with a header of `bytes` bytes. @throws SandboxError ERR_PROTOCOL when it is shorter */
export function headerView(payload: Uint8Array, bytes: number, what: string): DataView {
  if (payload.length < bytes) {
    throw new SandboxError(
      "ERR_PROTOCOL",
      `a netlink message about ${what} has only ${payload.length} bytes`,
    );
  }
  return viewOf(payload);
}

/** An attribute with `length` bytes of value, all zero. */
function attribute(type: number, length: number): Uint8Array {
  const bytes = HEADER + length;
  const out = new Uint8Array(align4(bytes));
  out[0] = bytes;
  out[1] = bytes >> 8;
  out[2] = type;
  out[3] = type >> 8;
  return out;
}

/** One attribute with the bytes `value`. Precondition: value shorter than 64 KiB - 4. */
export function attrBytes(type: number, value: Uint8Array): Uint8Array {
  const out = attribute(type, value.length);
  out.set(value, HEADER);
  return out;
}

export function attrU8(type: number, value: number): Uint8Array {
  const out = attribute(type, 1);
  out[4] = value;
  return out;
}

/** Also for signed values: -1 is written as 0xffffffff. */
export function attrU32(type: number, value: number): Uint8Array {
  const out = attribute(type, 4);
  out[4] = value;
  out[5] = value >> 8;
  out[6] = value >> 16;
  out[7] = value >> 24;
  return out;
}

/** A u32 in network order, as nfnetlink wants all its numbers. */
export function attrBe32(type: number, value: number): Uint8Array {
  const out = attribute(type, 4);
  out[4] = value >> 24;
  out[5] = value >> 16;
  out[6] = value >> 8;
  out[7] = value;
  return out;
}

/** A string with its terminating zero byte. */
export function attrString(type: number, value: string): Uint8Array {
  const out = attribute(type, value.length + 1);
  for (let i = 0; i < value.length; i++) {
    const code = value.charCodeAt(i);
    if (code >= 0x80) return attrBytes(type, encoder.encode(`${value}\0`));
    out[HEADER + i] = code;
  }
  return out;
}

/** A nest marked NLA_F_NESTED, as nfnetlink insists on. */
export function attrNest(type: number, ...children: readonly Uint8Array[]): Uint8Array {
  return attrBytes(type | NLA_F_NESTED, concat(...children));
}

/** A nest without the mark, as iproute2 sends them to tc and as old kernels expect. */
export function attrPlainNest(type: number, ...children: readonly Uint8Array[]): Uint8Array {
  return attrBytes(type, concat(...children));
}

/** Attributes of one level: type to value bytes (views into the message). A repeated type keeps the last value. */
export type Attributes = Pick<ReadonlyMap<number, Uint8Array>, "get" | "has">;

/** Every attribute in order, for lists whose types repeat. Stops at the first malformed header. */
export function listAttributes(bytes: Uint8Array, offset = 0): { type: number; value: Uint8Array }[] {
  const view = viewOf(bytes);
  const out: { type: number; value: Uint8Array }[] = [];
  let at = offset;
  while (at + HEADER <= bytes.length) {
    const length = view.getUint16(at, true);
    if (length < HEADER || at + length > bytes.length) break;
    out.push({
      type: view.getUint16(at + 2, true) & NLA_TYPE_MASK,
      value: bytes.subarray(at + HEADER, at + length),
    });
    at += align4(length);
  }
  return out;
}

/** Where the values are: a link has some fifty attributes, of which a reader wants ten. */
class Places implements Attributes {
  readonly #bytes: Uint8Array;
  /** Type to the offset of the header. */
  readonly #headers = new Map<number, number>();

  constructor(bytes: Uint8Array, offset: number) {
    this.#bytes = bytes;
    for (let at = offset; at + HEADER <= bytes.length; ) {
      const length = u16(bytes, at);
      if (length < HEADER || at + length > bytes.length) break;
      this.#headers.set(u16(bytes, at + 2) & NLA_TYPE_MASK, at);
      at += align4(length);
    }
  }

  has(type: number): boolean {
    return this.#headers.has(type);
  }

  get(type: number): Uint8Array | undefined {
    const at = this.#headers.get(type);
    return at === undefined ? undefined : this.#bytes.subarray(at + HEADER, at + u16(this.#bytes, at));
  }
}

const u16 = (bytes: Uint8Array, at: number): number => (bytes[at] ?? 0) | ((bytes[at + 1] ?? 0) << 8);

export const parseAttributes = (bytes: Uint8Array, offset = 0): Attributes => new Places(bytes, offset);

/** The attributes nested in attribute `type`; undefined when it is absent. */
export function nested(attributes: Attributes, type: number): Attributes | undefined {
  const value = attributes.get(type);
  return value === undefined ? undefined : parseAttributes(value);
}

export function readU8(attributes: Attributes, type: number): number | undefined {
  return attributes.get(type)?.[0];
}

export function readU32(attributes: Attributes, type: number): number | undefined {
  const value = attributes.get(type);
  return value === undefined || value.length < 4 ? undefined : viewOf(value).getUint32(0, true);
}

export function readS32(attributes: Attributes, type: number): number | undefined {
  const value = readU32(attributes, type);
  return value === undefined ? undefined : value | 0;
}

/** A counter; exact up to 2^53. */
export function readU64(attributes: Attributes, type: number): number | undefined {
  const value = attributes.get(type);
  return value === undefined || value.length < 8 ? undefined : Number(viewOf(value).getBigUint64(0, true));
}

/** Text up to the terminating zero byte. */
export function readString(attributes: Attributes, type: number): string | undefined {
  const value = attributes.get(type);
  if (value === undefined) return undefined;
  let text = "";
  for (const byte of value) {
    if (byte === 0) break;
    if (byte >= 0x80) return decodeString(value);
    text += String.fromCharCode(byte);
  }
  return text;
}

function decodeString(value: Uint8Array): string {
  const end = value.indexOf(0);
  return decoder.decode(end < 0 ? value : value.subarray(0, end));
}
