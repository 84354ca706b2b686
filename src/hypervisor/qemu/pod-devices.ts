/** The devices of a machine that belong to one pod: shared file systems, vsock, NICs. */
import type { PodDevices } from "../hypervisor.ts";
import type { Device, TapNetdev } from "./switches.ts";

/** Longest tag of a virtio-fs device, in bytes (virtio specification 5.11.4). */
const MAX_TAG_BYTES = 36;

/** A character device that is a connection to the unix socket `path`. */
export interface ClientChardev {
  readonly id: string;
  readonly path: string;
}

/** Character devices and network backends come before the devices that use them. */
export interface PodParts {
  readonly chardevs: readonly ClientChardev[];
  readonly netdevs: readonly TapNetdev[];
  readonly devices: readonly Device[];
}

/** What QEMU calls a descriptor of ours: a number in its table, or the name under which QMP's getfd took it. */
export type NameFd = (fd: number) => number | string;

/** Name of the backend of the n-th NIC of the boot, counted from 0. */
export function bootNetdevId(index: number): string {
  return `net${index}`;
}

/** Why no machine could have these devices, one phrase each. */
export function podProblems({ sharedFs = [], nics }: PodDevices): string[] {
  const problems: string[] = [];
  if (sharedFs.some(({ tag }) => tag === "" || Buffer.byteLength(tag) > MAX_TAG_BYTES)) {
    problems.push(`a virtio-fs tag of other than 1 to ${MAX_TAG_BYTES} bytes`);
  }
  for (const { mac, tapFds, vhostFds } of nics) {
    if (tapFds.length === 0) problems.push(`no tap descriptor for the NIC ${mac}`);
    if (vhostFds.length !== 0 && vhostFds.length !== tapFds.length) {
      problems.push(`${vhostFds.length} vhost descriptors for ${tapFds.length} queues of the NIC ${mac}`);
    }
  }
  return problems;
}

export function podParts(pod: PodDevices, nameFd: NameFd): PodParts {
  const { sharedFs = [], nics } = pod;
  const way = vsock(pod, nameFd);
  const share = (index: number) => `share${index}`;
  return {
    chardevs: [
      ...sharedFs.map(({ socketPath }, index) => ({ id: share(index), path: socketPath })),
      ...way.chardevs,
    ],
    netdevs: nics.map(({ tapFds, vhostFds }, index) => ({
      id: bootNetdevId(index),
      tapFds: tapFds.map(nameFd),
      vhostFds: vhostFds.map(nameFd),
    })),
    devices: [
      ...sharedFs.map(
        ({ tag, queueSize }, index) =>
          ({ device: "vhost-user-fs-pci", chardev: share(index), tag, queueSize }) as const,
      ),
      ...way.devices,
      ...nics.map(({ mac, mtu, tapFds }, index) => {
        const netdev = bootNetdevId(index);
        return {
          device: "virtio-net-pci",
          id: `nic${index}`,
          netdev,
          mac,
          mtu,
          queues: tapFds.length,
        } as const;
      }),
    ],
  };
}

function vsock({ vsock: wanted }: PodDevices, nameFd: NameFd): Pick<PodParts, "chardevs" | "devices"> {
  if (wanted === undefined) return { chardevs: [], devices: [] };
  if (wanted.kind === "vhost-vsock") {
    const { guestCid, fd } = wanted;
    return { chardevs: [], devices: [{ device: "vhost-vsock-pci", guestCid, fd: nameFd(fd) }] };
  }
  return {
    chardevs: [{ id: "vsock", path: wanted.socketPath }],
    devices: [{ device: "vhost-user-vsock-pci", chardev: "vsock" }],
  };
}
