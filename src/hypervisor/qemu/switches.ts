/**
 * QEMU's command line as data: a type for each switch and device that we use, and one function that renders them.
 * Options are those that QEMU 7.2 and 10 share.
 */
import { assertNever } from "../../base/errors.ts";
import type { Accel } from "../hypervisor.ts";
import { type OptionValue, optionList } from "./option-list.ts";

/** What is behind a character device. Descriptors are numbers in QEMU's own table. */
export type Backend =
  | { readonly kind: "stdio" }
  /** A listening socket that QEMU inherits. */
  | { readonly kind: "listener"; readonly fd: number }
  /** A socket that QEMU connects to. */
  | { readonly kind: "client"; readonly path: string };

/** A PCI device; `bus` only for hotplug. */
export type Device =
  | {
      readonly device: "pcie-root-port";
      readonly id: string;
      readonly chassis: number;
      readonly slot: number;
      /** On the bus, hexadecimal; absent: the next that is free. */
      readonly addr?: string;
    }
  | { readonly device: "virtio-rng-pci"; readonly rng: string }
  | {
      readonly device: "virtio-balloon-pci";
      readonly freePageReporting: boolean;
      readonly deflateOnOom: boolean;
    }
  | {
      readonly device: "vhost-user-fs-pci";
      readonly chardev: string;
      readonly tag: string;
      readonly queueSize: number;
    }
  | { readonly device: "vhost-vsock-pci"; readonly guestCid: number; readonly fd: number | string }
  | { readonly device: "vhost-user-vsock-pci"; readonly chardev: string }
  | VirtioBlk
  | VirtioMem
  | VirtioNet;

export interface VirtioBlk {
  readonly device: "virtio-blk-pci";
  readonly id: string;
  /** Node name of the block backend. */
  readonly drive: string;
  readonly serial: string;
}

export interface VirtioMem {
  readonly device: "virtio-mem-pci";
  readonly id: string;
  /** The backend's name. */
  readonly memdev: string;
  /** Take the memory from the host when the guest takes it from us. */
  readonly preallocate: boolean;
}

export interface VirtioNet {
  readonly device: "virtio-net-pci";
  readonly id: string;
  readonly netdev: string;
  readonly mac: string;
  readonly mtu: number;
  readonly queues: number;
}

export interface TapNetdev {
  readonly id: string;
  /** Numbers in QEMU's table, or the names under which QMP's getfd took them. */
  readonly tapFds: readonly (number | string)[];
  readonly vhostFds: readonly (number | string)[];
}

export type Switch =
  | { readonly switch: "name"; readonly name: string }
  | { readonly switch: "machine"; readonly type: "q35"; readonly extra: string | undefined }
  | { readonly switch: "accel"; readonly accel: Accel; readonly threads: "single" | "multi" }
  | { readonly switch: "cpu"; readonly model: "host" | "max"; readonly features: readonly string[] }
  | { readonly switch: "smp"; readonly cpus: number; readonly maxCpus: number }
  | {
      readonly switch: "memory";
      readonly sizeMiB: number;
      readonly maxMiB: number;
      readonly backend: string;
      /** A descriptor of what becomes the memory; absent: new memory. */
      readonly file: number | undefined;
      readonly hugepages: boolean;
      readonly preallocate: boolean;
    }
  | { readonly switch: "bare" }
  | { readonly switch: "rtc"; readonly slew: boolean }
  | { readonly switch: "firmware"; readonly path: string }
  | { readonly switch: "kernel"; readonly path: string; readonly initrd: string; readonly append: string }
  | { readonly switch: "incoming" }
  | { readonly switch: "chardev"; readonly id: string; readonly backend: Backend }
  | { readonly switch: "serial"; readonly chardev: string }
  | { readonly switch: "monitor"; readonly chardev: string }
  | { readonly switch: "rng"; readonly id: string }
  | ({ readonly switch: "tap" } & TapNetdev)
  | ({ readonly switch: "device" } & Device)
  /** Where QEMU's own trace would go; nothing is written unless it is asked for one. */
  | { readonly switch: "log"; readonly path: string }
  | { readonly switch: "sandbox"; readonly filter: string };

/** The arguments of one switch. */
export function renderSwitch(item: Switch): string[] {
  switch (item.switch) {
    case "name":
      return ["-name", optionList(undefined, { guest: item.name, "debug-threads": true })];
    case "machine":
      return ["-machine", renderMachine(item.type, item.extra)];
    case "accel":
      // Of TCG's default of up to 1 GiB of translated code a guest fills what it gets, and is slower for it
      // (docs/performance.md). In MiB.
      return ["-accel", item.accel === "tcg" ? `tcg,thread=${item.threads},tb-size=32` : "kvm"];
    case "cpu":
      return ["-cpu", [item.model, ...item.features].join(",")];
    case "smp":
      return [
        "-smp",
        optionList(undefined, {
          cpus: item.cpus,
          sockets: 1,
          cores: item.maxCpus,
          threads: 1,
          maxcpus: item.maxCpus,
        }),
      ];
    case "memory":
      return renderMemory(item);
    case "bare":
      return ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"];
    case "rtc":
      return [
        "-rtc",
        optionList(undefined, { base: "utc", clock: "host", driftfix: item.slew ? "slew" : "none" }),
      ];
    case "firmware":
      return ["-bios", item.path];
    case "kernel":
      return ["-kernel", item.path, "-initrd", item.initrd, "-append", item.append];
    case "incoming":
      return ["-incoming", "defer"];
    case "chardev":
      return ["-chardev", renderBackend(item.id, item.backend)];
    case "serial":
      return ["-serial", `chardev:${item.chardev}`];
    case "monitor":
      return ["-mon", optionList(undefined, { chardev: item.chardev, mode: "control" })];
    case "rng":
      return ["-object", optionList("rng-random", { id: item.id, filename: "/dev/urandom" })];
    case "tap":
      return ["-netdev", optionList("tap", tapOptions(item))];
    case "device":
      return ["-device", optionList(item.device, deviceOptions(item))];
    case "log":
      return ["-D", item.path];
    case "sandbox":
      return ["-sandbox", item.filter];
    default:
      return assertNever(item);
  }
}

/**
 * q35 without the devices that a container guest never uses: they cost probing at boot and are attack surface.
 * `extra` is QEMU syntax already.
 */
function renderMachine(type: string, extra: string | undefined): string {
  const trimmed = optionList(type, {
    usb: false,
    vmport: false,
    graphics: false,
    hpet: false,
    i8042: false,
    sata: false,
    smbus: false,
    "dump-guest-core": false,
  });
  return extra === undefined || extra === "" ? trimmed : `${trimmed},${extra}`;
}

function renderMemory(item: Extract<Switch, { switch: "memory" }>): string[] {
  const growing = item.maxMiB > item.sizeMiB;
  const size = { size: `${item.sizeMiB}M` };
  return [
    "-m",
    // No slots: memory comes as one virtio-mem device (docs/decisions/0015-adding-memory.md), and each slot costs boot time.
    optionList(undefined, growing ? { ...size, slots: 0, maxmem: `${item.maxMiB}M` } : size),
    "-object",
    // Shared, so that vhost-user backends can map it; a memfd and not a file, so that /dev/shm's size is no limit.
    optionList(item.file === undefined ? "memory-backend-memfd" : "memory-backend-file", {
      id: item.backend,
      ...size,
      "mem-path": item.file === undefined ? undefined : `/proc/self/fd/${item.file}`,
      share: true,
      hugetlb: item.hugepages ? true : undefined,
      prealloc: item.preallocate ? true : undefined,
    }),
    "-numa",
    optionList("node", { nodeid: 0, memdev: item.backend }),
  ];
}

function renderBackend(id: string, backend: Backend): string {
  switch (backend.kind) {
    case "stdio":
      return optionList("stdio", { id, signal: false });
    case "listener":
      return optionList("socket", { id, fd: backend.fd, server: true, wait: false });
    case "client":
      return optionList("socket", { id, path: backend.path });
    default:
      return assertNever(backend);
  }
}

/** Options of a tap backend: `fd` for one queue, `fds` for several, and the same for vhost. */
export function tapOptions(netdev: TapNetdev): Record<string, OptionValue> {
  const many = netdev.tapFds.length > 1;
  const vhost = netdev.vhostFds.length > 0;
  return {
    id: netdev.id,
    [many ? "fds" : "fd"]: netdev.tapFds.join(":"),
    vhost,
    ...(vhost ? { [many ? "vhostfds" : "vhostfd"]: netdev.vhostFds.join(":") } : {}),
  };
}

/** The options of a device, without its driver name. */
export function deviceOptions(item: Device): Record<string, OptionValue> {
  switch (item.device) {
    case "pcie-root-port":
      return { id: item.id, bus: "pcie.0", chassis: item.chassis, slot: item.slot, addr: item.addr };
    case "virtio-rng-pci":
      return { rng: item.rng };
    case "virtio-balloon-pci":
      return { "free-page-reporting": item.freePageReporting, "deflate-on-oom": item.deflateOnOom };
    case "vhost-user-fs-pci":
      return { chardev: item.chardev, tag: item.tag, "queue-size": item.queueSize };
    case "vhost-vsock-pci":
      // Text, also in QMP.
      return { "guest-cid": item.guestCid, vhostfd: String(item.fd) };
    case "vhost-user-vsock-pci":
      return { chardev: item.chardev };
    case "virtio-blk-pci":
      return { id: item.id, drive: item.drive, serial: item.serial };
    case "virtio-mem-pci":
      return {
        id: item.id,
        memdev: item.memdev,
        node: 0,
        prealloc: item.preallocate ? true : undefined,
      };
    case "virtio-net-pci":
      return netOptions(item);
    default:
      return assertNever(item);
  }
}

/** Interrupt vectors: one per receive and transmit queue, one for control, one for configuration changes. */
function netOptions(nic: VirtioNet): Record<string, OptionValue> {
  const many = nic.queues > 1;
  return {
    id: nic.id,
    netdev: nic.netdev,
    mac: nic.mac,
    host_mtu: nic.mtu,
    mq: many ? true : undefined,
    vectors: many ? 2 * nic.queues + 2 : undefined,
    // No boot ROM: it is not needed, and its package need not be installed.
    romfile: "",
  };
}
