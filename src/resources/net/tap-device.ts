/** Tap and macvtap queues: the operations that open them as QEMU wants them. linux/if_tun.h, linux/if.h. */
import { constants } from "node:fs";
import type { NetnsOperation } from "../../native/net.ts";

/** ioctl requests: _IOW('T', n, int). */
const TUNSETIFF = 0x400454ca;
const TUNSETOFFLOAD = 0x400454d0;
const TUNSETVNETHDRSZ = 0x400454d8;
const TUNSETIFINDEX = 0x400454da;

const IFF_TAP = 0x0002;
const IFF_MULTI_QUEUE = 0x0100;
const IFF_NO_PI = 0x1000;
const IFF_VNET_HDR = 0x4000;
/** Refuse to attach to an interface that exists. */
const IFF_TUN_EXCL = 0x8000;

/** struct virtio_net_hdr_mrg_rxbuf, linux/virtio_net.h: what QEMU reads and writes before each frame. */
export const VNET_HEADER = 12;
/** TUN_F_CSUM | TSO4 | TSO6 | TSO_ECN: frames of up to 64 KiB, checksums left to the other side. */
const OFFLOADS = 0x0f;
/** struct ifreq on 64-bit machines: 16 bytes of name, then the flags. */
const IFREQ = 40;

function ifreq(name: string, flags: number): Uint8Array {
  const bytes = new Uint8Array(IFREQ);
  bytes.set(new TextEncoder().encode(name).subarray(0, 15));
  new DataView(bytes.buffer).setUint16(16, flags, true);
  return bytes;
}

function int(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setInt32(0, value, true);
  return bytes;
}

export interface TapQueues {
  readonly name: string;
  /** The interface index it gets: chosen by the plan, so that the filters can be prepared before it exists. */
  readonly index: number;
  readonly queues: number;
}

/**
 * The operations that create the tap and open all its queues; they must run inside the pod's namespace.
 * @param at position of the first of them in the list; `opens` holds the positions that give descriptors.
 */
export function tapOperations(tap: TapQueues, at: number): { operations: NetnsOperation[]; opens: number[] } {
  const operations: NetnsOperation[] = [];
  const opens: number[] = [];
  const flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (tap.queues > 1 ? IFF_MULTI_QUEUE : 0);
  for (let queue = 0; queue < tap.queues; queue++) {
    const fd = { of: at + operations.length };
    opens.push(fd.of);
    operations.push({ do: "open", path: "/dev/net/tun", flags: constants.O_RDWR | constants.O_NONBLOCK });
    if (queue === 0) operations.push({ do: "ioctl", fd, request: TUNSETIFINDEX, data: int(tap.index) });
    const create = queue === 0 ? IFF_TUN_EXCL : 0;
    operations.push({ do: "ioctl", fd, request: TUNSETIFF, data: ifreq(tap.name, flags | create) });
    operations.push(...headerOperations(fd));
  }
  return { operations, opens };
}

/** The same for the character device of a macvtap that exists; /dev/tapN is one name space for all namespaces. */
export function macvtapOperations(
  tap: TapQueues,
  at: number,
): { operations: NetnsOperation[]; opens: number[] } {
  const operations: NetnsOperation[] = [];
  const opens: number[] = [];
  const flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (tap.queues > 1 ? IFF_MULTI_QUEUE : 0);
  for (let queue = 0; queue < tap.queues; queue++) {
    const fd = { of: at + operations.length };
    opens.push(fd.of);
    operations.push({
      do: "open",
      path: `/dev/tap${tap.index}`,
      flags: constants.O_RDWR | constants.O_NONBLOCK,
    });
    operations.push({ do: "ioctl", fd, request: TUNSETIFF, data: ifreq(tap.name, flags) });
    operations.push(...headerOperations(fd));
  }
  return { operations, opens };
}

function headerOperations(fd: { of: number }): NetnsOperation[] {
  return [
    { do: "ioctl", fd, request: TUNSETVNETHDRSZ, data: int(VNET_HEADER) },
    { do: "ioctl-number", fd, request: TUNSETOFFLOAD, argument: OFFLOADS },
  ];
}
