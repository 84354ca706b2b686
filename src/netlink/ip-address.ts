/** Text forms of addresses: IPv4 dotted quad, IPv6 as RFC 5952 writes it, MAC with colons, CIDR. */
import { SandboxError } from "../base/errors.ts";

/** Address families, linux/socket.h. */
export const AF_UNSPEC = 0;
export const AF_INET = 2;
export const AF_INET6 = 10;

/** The 4 or 16 bytes of an address. @throws SandboxError ERR_INVALID_ARGUMENT */
export function parseIp(text: string): Uint8Array {
  const bytes = text.includes(":") ? parseIpv6(text) : parseIpv4(text);
  if (bytes === undefined) {
    throw new SandboxError("ERR_INVALID_ARGUMENT", `"${text}" is not an IP address`);
  }
  return bytes;
}

/** The family (AF_INET or AF_INET6) of an address of 4 or 16 bytes. */
export function familyOf(address: Uint8Array): number {
  return address.length === 4 ? AF_INET : AF_INET6;
}

function parseIpv4(text: string): Uint8Array | undefined {
  const parts = text.split(".");
  if (parts.length !== 4 || parts.some((part) => !/^(0|[1-9]\d{0,2})$/.test(part) || Number(part) > 255)) {
    return undefined;
  }
  return Uint8Array.from(parts, Number);
}

function parseIpv6(text: string): Uint8Array | undefined {
  const halves = text.split("::");
  if (halves.length > 2) return undefined;
  const head = parseGroups(halves[0] ?? "");
  const tail = halves.length === 2 ? parseGroups(halves[1] ?? "") : [];
  if (head === undefined || tail === undefined) return undefined;
  const missing = 16 - head.length - tail.length;
  if (halves.length === 2 ? missing < 2 : missing !== 0) return undefined;
  return Uint8Array.from([...head, ...new Array<number>(missing).fill(0), ...tail]);
}

function parseGroups(text: string): number[] | undefined {
  if (text === "") return [];
  const bytes: number[] = [];
  const groups = text.split(":");
  for (const [index, group] of groups.entries()) {
    if (index === groups.length - 1 && group.includes(".")) {
      const v4 = parseIpv4(group);
      if (v4 === undefined) return undefined;
      bytes.push(...v4);
    } else {
      if (!/^[0-9a-fA-F]{1,4}$/.test(group)) return undefined;
      const value = Number.parseInt(group, 16);
      bytes.push(value >> 8, value & 0xff);
    }
  }
  return bytes;
}

/** Text of an address of 4 or 16 bytes. */
export function formatIp(bytes: Uint8Array): string {
  if (bytes.length === 4) return bytes.join(".");
  const groups = Array.from({ length: 8 }, (_, i) => ((bytes[2 * i] ?? 0) << 8) | (bytes[2 * i + 1] ?? 0));
  const run = longestZeroRun(groups);
  const hex = (from: number, to: number) =>
    groups
      .slice(from, to)
      .map((group) => group.toString(16))
      .join(":");
  return run.length < 2 ? hex(0, 8) : `${hex(0, run.start)}::${hex(run.start + run.length, 8)}`;
}

function longestZeroRun(groups: readonly number[]): { start: number; length: number } {
  let best = { start: 0, length: 0 };
  let start = 0;
  for (let i = 0; i <= groups.length; i++) {
    if (groups[i] === 0) continue;
    if (i - start > best.length) best = { start, length: i - start };
    start = i + 1;
  }
  return best;
}

/** An address and its prefix length, from "10.0.0.1/24" or a bare address (full length). */
export function parseCidr(text: string): { address: Uint8Array; prefixLength: number } {
  const slash = text.indexOf("/");
  const address = parseIp(slash < 0 ? text : text.slice(0, slash));
  const bits = address.length * 8;
  const prefixLength = slash < 0 ? bits : Number(text.slice(slash + 1));
  if (!Number.isInteger(prefixLength) || prefixLength < 0 || prefixLength > bits) {
    throw new SandboxError("ERR_INVALID_ARGUMENT", `"${text}" is not an address in CIDR notation`);
  }
  return { address, prefixLength };
}

/** fe80::/10 */
export function isIpv6LinkLocal(address: Uint8Array): boolean {
  return address.length === 16 && address[0] === 0xfe && ((address[1] ?? 0) & 0xc0) === 0x80;
}

/** ff00::/8 or 224.0.0.0/4 */
export function isMulticast(address: Uint8Array): boolean {
  return address.length === 16 ? address[0] === 0xff : ((address[0] ?? 0) & 0xf0) === 0xe0;
}

/** The bytes of "02:00:00:00:00:01" (any number of bytes). @throws SandboxError ERR_INVALID_ARGUMENT */
export function parseMac(text: string): Uint8Array {
  if (!/^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2})*$/.test(text)) {
    throw new SandboxError("ERR_INVALID_ARGUMENT", `"${text}" is not a MAC address`);
  }
  return Uint8Array.from(text.split(":"), (part) => Number.parseInt(part, 16));
}

export function formatMac(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(":");
}
