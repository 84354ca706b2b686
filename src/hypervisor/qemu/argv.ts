/** From a machine as plain data to QEMU's command line and the descriptors it inherits. */
import { SandboxError } from "../../base/errors.ts";
import type { NicConfig, SharedFsConfig, VmConfig } from "../hypervisor.ts";
import { kernelCommandLine } from "./kernel-command-line.ts";
import { type Device, renderSwitch, type Switch } from "./switches.ts";

/** First descriptor number of what a child inherits (0 to 2 are stdin, stdout and stderr). */
const FIRST_INHERITED_FD = 3;

/** Longest tag of a virtio-fs device, in bytes (virtio specification 5.11.4). */
const MAX_TAG_BYTES = 36;

/** Collects descriptors of ours and tells the number that each will have in QEMU. */
class InheritedFds {
  readonly list: number[] = [];

  add(fd: number): number {
    this.list.push(fd);
    return FIRST_INHERITED_FD + this.list.length - 1;
  }
}

export interface QemuCommand {
  readonly args: readonly string[];
  /** Descriptors of the caller that become 3, 4, … in QEMU. */
  readonly fds: readonly number[];
}

/**
 * The command line of `config`. Pure.
 * @param qmpListenerFd a listening unix socket on which QEMU serves QMP.
 * @throws SandboxError ERR_INVALID_ARGUMENT when the machine makes no sense.
 */
export function qemuCommand(config: VmConfig, qmpListenerFd: number): QemuCommand {
  check(config);
  const fds = new InheritedFds();
  const switches: Switch[] = [
    { switch: "name", name: config.name },
    { switch: "machine", type: "q35", extra: config.machineOptions },
    { switch: "accel", accel: config.accel, threads: hostThreads(config) },
    { switch: "cpu", model: config.accel === "kvm" ? "host" : "max", features: cpuFeatures(config) },
    { switch: "smp", cpus: config.cpus, maxCpus: config.maxCpus },
    {
      switch: "memory",
      sizeMiB: config.memoryMiB,
      maxMiB: config.maxMemoryMiB,
      backend: "ram",
      hugepages: config.hugepages === true,
      preallocate: config.preallocate === true,
    },
    { switch: "bare" },
    { switch: "rtc", slew: config.accel === "kvm" },
    ...(config.firmware === undefined ? [] : [{ switch: "firmware", path: config.firmware } as const]),
    {
      switch: "kernel",
      path: config.kernel.path,
      initrd: config.initrd,
      append: kernelCommandLine(config),
    },
    { switch: "chardev", id: "console", backend: { kind: "stdio" } },
    { switch: "serial", chardev: "console" },
    { switch: "chardev", id: "qmp", backend: { kind: "listener", fd: fds.add(qmpListenerFd) } },
    { switch: "monitor", chardev: "qmp" },
    { switch: "rng", id: "entropy" },
    device({ device: "virtio-rng-pci", rng: "entropy" }),
    ...(config.sharedFs ?? []).flatMap(sharedFs),
    ...vsock(config, fds),
    ...config.nics.flatMap((nic, index) => network(nic, index, fds)),
    ...(config.reclaimFreedMemory === true
      ? [device({ device: "virtio-balloon-pci", freePageReporting: true, deflateOnOom: true })]
      : []),
    ...rootPorts(config.rootPorts),
    ...(config.seccomp === "" ? [] : [{ switch: "sandbox", filter: config.seccomp } as const]),
  ];
  return { args: switches.flatMap(renderSwitch), fds: fds.list };
}

/** Name of the n-th root port kept for hotplug, counted from 0. */
export function rootPortId(index: number): string {
  return `rp${index}`;
}

/** Name of the backend of the n-th NIC of the boot, counted from 0. */
export function bootNetdevId(index: number): string {
  return `net${index}`;
}

function device(item: Device): Switch {
  return { switch: "device", ...item };
}

/**
 * TCG with a host thread for each vCPU ends in an assertion (QEMU's tcg_region_initial_alloc) when a vCPU is plugged while
 * the others have taken all of the room for translated code. A machine with one vCPU loses nothing by a single thread.
 */
function hostThreads({ cpus }: VmConfig): "single" | "multi" {
  return cpus === 1 ? "single" : "multi";
}

function cpuFeatures(config: VmConfig): string[] {
  // The virtual PMU costs exits and is of no use to containers.
  const features = config.accel === "kvm" ? ["pmu=off"] : [];
  if (config.cpuFeatures !== undefined && config.cpuFeatures !== "") features.push(config.cpuFeatures);
  return features;
}

function sharedFs({ socketPath, tag, queueSize }: SharedFsConfig, index: number): Switch[] {
  const chardev = `share${index}`;
  return [
    { switch: "chardev", id: chardev, backend: { kind: "client", path: socketPath } },
    device({ device: "vhost-user-fs-pci", chardev, tag, queueSize }),
  ];
}

function vsock(config: VmConfig, fds: InheritedFds): Switch[] {
  const vsockDevice = config.vsock;
  if (vsockDevice === undefined) return [];
  if (vsockDevice.kind === "vhost-vsock") {
    const fd = fds.add(vsockDevice.fd);
    return [device({ device: "vhost-vsock-pci", guestCid: vsockDevice.guestCid, fd })];
  }
  return [
    { switch: "chardev", id: "vsock", backend: { kind: "client", path: vsockDevice.socketPath } },
    device({ device: "vhost-user-vsock-pci", chardev: "vsock" }),
  ];
}

function network(nic: NicConfig, index: number, fds: InheritedFds): Switch[] {
  const netdev = bootNetdevId(index);
  const queues = nic.tapFds.length;
  const tapFds = nic.tapFds.map((fd) => fds.add(fd));
  const vhostFds = nic.vhostFds.map((fd) => fds.add(fd));
  return [
    { switch: "tap", id: netdev, tapFds, vhostFds },
    device({ device: "virtio-net-pci", id: `nic${index}`, netdev, mac: nic.mac, mtu: nic.mtu, queues }),
  ];
}

function rootPorts(count: number): Switch[] {
  return Array.from({ length: count }, (_, index) =>
    device({ device: "pcie-root-port", id: rootPortId(index), chassis: index + 1, slot: index + 1 }),
  );
}

function check(config: VmConfig): void {
  const problems: string[] = [];
  if (config.cpus < 1 || config.maxCpus < config.cpus) {
    problems.push(`${config.cpus} vCPUs of at most ${config.maxCpus}`);
  }
  if (config.maxMemoryMiB < config.memoryMiB) {
    problems.push(`${config.memoryMiB} MiB of at most ${config.maxMemoryMiB} MiB of memory`);
  }
  const tags = (config.sharedFs ?? []).map(({ tag }) => tag);
  if (tags.some((tag) => tag === "" || Buffer.byteLength(tag) > MAX_TAG_BYTES)) {
    problems.push(`a virtio-fs tag of other than 1 to ${MAX_TAG_BYTES} bytes`);
  }
  for (const nic of config.nics) {
    if (nic.tapFds.length === 0) problems.push(`no tap descriptor for the NIC ${nic.mac}`);
    if (nic.vhostFds.length !== 0 && nic.vhostFds.length !== nic.tapFds.length) {
      problems.push(
        `${nic.vhostFds.length} vhost descriptors for ${nic.tapFds.length} queues of the NIC ${nic.mac}`,
      );
    }
  }
  if (problems.length > 0) {
    throw new SandboxError(
      "ERR_INVALID_ARGUMENT",
      `the machine "${config.name}" has ${problems.join(" and ")}`,
    );
  }
}
