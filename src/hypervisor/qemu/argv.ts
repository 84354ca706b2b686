/** From a machine as plain data to QEMU's command line and the descriptors it inherits. */
import { SandboxError } from "../../base/errors.ts";
import type { VmConfig } from "../hypervisor.ts";
import { kernelCommandLine } from "./kernel-command-line.ts";
import { type ClientChardev, podParts, podProblems } from "./pod-devices.ts";
import { type Device, renderSwitch, type Switch } from "./switches.ts";

/** First descriptor number of what a child inherits (0 to 2 are stdin, stdout and stderr). */
const FIRST_INHERITED_FD = 3;

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
  /** Number of the saved guest's state in QEMU; nothing where the kernel is started. */
  readonly stateFd: number | undefined;
}

/**
 * The command line of `config`. Pure.
 * @param qmpListenerFd a listening unix socket on which QEMU serves QMP.
 * @throws SandboxError ERR_INVALID_ARGUMENT when the machine makes no sense.
 */
export function qemuCommand(config: VmConfig, qmpListenerFd: number): QemuCommand {
  check(config);
  const fds = new InheritedFds();
  const { saved } = config;
  const stateFd = saved && fds.add(saved.stateFd);
  // QEMU reads no state into a machine that has them.
  const pod = saved === undefined ? podSwitches(config, fds) : [];
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
      file: config.memoryFd === undefined ? undefined : fds.add(config.memoryFd),
      hugepages: config.hugepages === true,
      preallocate: config.preallocate === true,
    },
    { switch: "bare" },
    { switch: "rtc", slew: config.accel === "kvm" },
    ...(config.firmware === undefined ? [] : [{ switch: "firmware", path: config.firmware } as const]),
    start(config),
    { switch: "chardev", id: "console", backend: { kind: "stdio" } },
    { switch: "serial", chardev: "console" },
    { switch: "chardev", id: "qmp", backend: { kind: "listener", fd: fds.add(qmpListenerFd) } },
    { switch: "monitor", chardev: "qmp" },
    { switch: "rng", id: "entropy" },
    device({ device: "virtio-rng-pci", rng: "entropy" }),
    ...(config.reclaimFreedMemory === true
      ? [device({ device: "virtio-balloon-pci", freePageReporting: true, deflateOnOom: true })]
      : []),
    ...rootPorts(config.rootPorts),
    ...(config.template === true || saved !== undefined ? [podPort(config.rootPorts)] : []),
    ...pod,
    // Its directory is what `delete` knows it by; that of a machine that boots is in the paths of its sockets.
    ...(saved === undefined ? [] : [{ switch: "log", path: `${config.runDir}/qemu.log` } as const]),
    ...(config.seccomp === "" ? [] : [{ switch: "sandbox", filter: config.seccomp } as const]),
  ];
  return { args: switches.flatMap(renderSwitch), fds: fds.list, stateFd };
}

function podSwitches(config: VmConfig, fds: InheritedFds): Switch[] {
  const { chardevs, netdevs, devices } = podParts(config, (fd) => fds.add(fd));
  return [
    ...chardevs.map(client),
    ...netdevs.map((it) => ({ switch: "tap", ...it }) as const),
    ...devices.map(device),
  ];
}

/** What the machine begins with: the kernel, or a guest that has booted already. */
function start(config: VmConfig): Switch {
  if (config.saved !== undefined) return { switch: "incoming" };
  const { kernel, initrd } = config;
  return { switch: "kernel", path: kernel.path, initrd, append: kernelCommandLine(config) };
}

/** Name of the port for the devices of a pod. */
export const POD_PORT = "pod";
/** Where the guest looks for it (guest-agent/src/boot/template.ts). */
const POD_PORT_ADDRESS = "1e";

/** Name of the n-th root port kept for hotplug, counted from 0. */
export function rootPortId(index: number): string {
  return `rp${index}`;
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
  // The virtual PMU costs exits and is of no use to containers. With ERMS the kernel copies and clears byte by byte (rep movsb),
  // which the emulated processor does one at a time.
  const features = config.accel === "kvm" ? ["pmu=off"] : ["erms=off"];
  if (config.cpuFeatures !== undefined && config.cpuFeatures !== "") features.push(config.cpuFeatures);
  return features;
}

function client({ id, path }: ClientChardev): Switch {
  return { switch: "chardev", id, backend: { kind: "client", path } };
}

/** The port that takes the devices of a pod in a machine that goes on from a saved guest: each is a function of one device. */
function podPort(index: number): Switch {
  return device({
    device: "pcie-root-port",
    id: POD_PORT,
    chassis: index + 1,
    slot: index + 1,
    addr: POD_PORT_ADDRESS,
  });
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
  problems.push(...podProblems(config));
  if (problems.length > 0) {
    throw new SandboxError(
      "ERR_INVALID_ARGUMENT",
      `the machine "${config.name}" has ${problems.join(" and ")}`,
    );
  }
}
