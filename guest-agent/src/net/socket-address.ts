/** Bytes of struct sockaddr_in and struct sockaddr_in6 (linux/in.h, linux/in6.h). Pure. */
import { SandboxError } from "../../../src/base/errors.ts";
import { AF_INET, AF_INET6, parseIp } from "../../../src/netlink/ip-address.ts";

/** sizeof(struct sockaddr_in6): family, port, flow info, address, scope. */
const SOCKADDR_IN6 = 28;
/** sizeof(struct sockaddr_in): family, port, address, 8 bytes of padding. */
const SOCKADDR_IN = 16;

/** @throws SandboxError ERR_INVALID_ARGUMENT for a text that is no address or a number that is no port. */
export function socketAddress(address: string, port: number): { family: number; bytes: Uint8Array } {
  const ip = parseIp(address);
  if (port < 1 || port > 0xffff) {
    throw new SandboxError("ERR_INVALID_ARGUMENT", `${port} is not a TCP port`);
  }
  const isV6 = ip.length === 16;
  const family = isV6 ? AF_INET6 : AF_INET;
  const bytes = new Uint8Array(isV6 ? SOCKADDR_IN6 : SOCKADDR_IN);
  const view = new DataView(bytes.buffer);
  view.setUint16(0, family, true);
  view.setUint16(2, port, false);
  bytes.set(ip, isV6 ? 8 : 4);
  return { family, bytes };
}
