/** Ethernet frames of every kind that a layer-2 path might treat specially. */
import { HOST_MAC, POD_MAC } from "./pod-fixture.ts";

function mac(text: string): Buffer {
  return Buffer.from(text.replaceAll(":", ""), "hex");
}

function frame(to: string, from: string, typeAndTags: string, marker: string): Buffer {
  const head = Buffer.concat([mac(to), mac(from), Buffer.from(typeAndTags, "hex")]);
  return Buffer.concat([head, Buffer.alloc(Math.max(60 - head.length, 50), `${marker} `)]);
}

/** Kinds of frame by name; `unicast` is the address of the receiving end. */
const kinds: Readonly<Record<string, (unicast: string, from: string) => Buffer>> = {
  unicast: (unicast, from) => frame(unicast, from, "88b5", "unicast"),
  "foreign unicast": (_, from) => frame("02:ca:15:50:00:99", from, "88b5", "foreign"),
  broadcast: (_, from) => frame("ff:ff:ff:ff:ff:ff", from, "88b5", "broadcast"),
  "IPv4 multicast": (_, from) => frame("01:00:5e:00:00:fb", from, "88b5", "mc4"),
  "IPv6 multicast": (_, from) => frame("33:33:00:00:00:01", from, "88b5", "mc6"),
  STP: (_, from) => frame("01:80:c2:00:00:00", from, "002642420300", "stp"),
  PAUSE: (_, from) => frame("01:80:c2:00:00:01", from, "88080001ffff", "pause"),
  LACP: (_, from) => frame("01:80:c2:00:00:02", from, "88090101", "lacp"),
  EAPOL: (_, from) => frame("01:80:c2:00:00:03", from, "888e0101", "eapol"),
  LLDP: (_, from) => frame("01:80:c2:00:00:0e", from, "88cc0207", "lldp"),
  VLAN: (unicast, from) => frame(unicast, from, "8100006488b5", "vlan"),
  QinQ: (unicast, from) => frame(unicast, from, "88a800c88100006488b5", "qinq"),
  "VLAN id 0": (unicast, from) => frame(unicast, from, "8100e00088b5", "priority"),
};

export const FRAME_KINDS = Object.keys(kinds);

/** One frame of each kind, by name. */
export function framesTowards(direction: "guest" | "host"): Map<string, Buffer> {
  const [to, from] = direction === "guest" ? [POD_MAC, HOST_MAC] : [HOST_MAC, POD_MAC];
  return new Map(Object.entries(kinds).map(([name, build]) => [name, build(to, from)]));
}

/** An ARP request from the host for `ip`. */
export function arpRequest(ip: string, fromIp: string): Buffer {
  const bytes = (text: string) => Buffer.from(text.split(".").map(Number));
  return Buffer.concat([
    mac("ff:ff:ff:ff:ff:ff"),
    mac(HOST_MAC),
    Buffer.from("08060001080006040001", "hex"),
    mac(HOST_MAC),
    bytes(fromIp),
    Buffer.alloc(6),
    bytes(ip),
    Buffer.alloc(18),
  ]);
}

/** Whether a frame is an ARP reply. */
export function isArpReply(bytes: Buffer): boolean {
  return bytes.readUInt16BE(12) === 0x0806 && bytes.readUInt16BE(20) === 2;
}

/** TCP over IPv4 with `length` bytes of payload, not yet segmented, and the virtio-net header that says so. */
export function tsoFrame(length: number, to: string, from: string): { header: Buffer; frame: Buffer } {
  const ip = Buffer.alloc(20);
  ip.writeUInt8(0x45, 0);
  ip.writeUInt16BE(40 + length, 2);
  ip.writeUInt8(64, 8);
  ip.writeUInt8(6, 9);
  ip.set([10, 88, 0, 1], 12);
  ip.set([10, 88, 0, 5], 16);
  let sum = 0;
  for (let i = 0; i < 20; i += 2) sum += ip.readUInt16BE(i);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
  ip.writeUInt16BE(~sum & 0xffff, 10);
  const tcp = Buffer.alloc(20);
  tcp.writeUInt16BE(5201, 0);
  tcp.writeUInt16BE(40000, 2);
  tcp.writeUInt8(0x50, 12);
  tcp.writeUInt8(0x10, 13);
  tcp.writeUInt16BE(0xffff, 14);
  const payload = Buffer.alloc(length, "tso ");
  // struct virtio_net_hdr: flags NEEDS_CSUM 1, gso type TCPV4 1, header length, segment size, checksum start, offset.
  const header = Buffer.alloc(12);
  header.writeUInt8(1, 0);
  header.writeUInt8(1, 1);
  header.writeUInt16LE(54, 2);
  header.writeUInt16LE(1448, 4);
  header.writeUInt16LE(34, 6);
  header.writeUInt16LE(16, 8);
  return { header, frame: Buffer.concat([mac(to), mac(from), Buffer.from("0800", "hex"), ip, tcp, payload]) };
}
