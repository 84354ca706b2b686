/**
 * What the runtime needs from a virtual machine monitor, and what it gives it. QEMU (qemu/launch.ts) is the one
 * implementation; the interface keeps its command line out of the rest.
 */
import type { SandboxError } from "../base/errors.ts";
import type { AsyncReleasable } from "../base/undo.ts";
import type { QmpClient } from "../qmp/index.ts";
import type { ChildExit } from "./child-process.ts";

export type Accel = "kvm" | "tcg";
export type KernelFormat = "vmlinux" | "bzImage";

/**
 * The machine's vsock device: the kernel's vhost-vsock, opened by us with the guest's CID already reserved on it, or a
 * user-space backend that listens on a vhost-user socket.
 */
export type VsockDevice =
  | { readonly kind: "vhost-vsock"; readonly fd: number; readonly guestCid: number }
  | { readonly kind: "vhost-user-vsock"; readonly socketPath: string };

/** A virtio-net device on a tap. One tap descriptor per queue; vhost-net descriptors for all queues or for none. */
export interface NicConfig {
  /** MAC address that the guest sees: that of the pod's interface. */
  readonly mac: string;
  /** Bytes; the guest's driver starts with it. */
  readonly mtu: number;
  readonly tapFds: readonly number[];
  readonly vhostFds: readonly number[];
}

export interface SharedFsConfig {
  /** vhost-user socket of virtiofsd, already listening. */
  readonly socketPath: string;
  /** Mount tag in the guest, at most 36 bytes (virtio specification 5.11.4). */
  readonly tag: string;
  /** Descriptors per queue, a power of two. */
  readonly queueSize: number;
}

/** A guest that a machine of the same make was saved with. */
export interface SavedGuest {
  /** The state of its devices, to be read from the beginning. */
  readonly stateFd: number;
  /** When the guest's memory is in the machine's `memoryFd`. */
  readonly filled: Promise<unknown>;
}

/** A machine as plain data. Descriptors are the caller's; the VMM process gets copies. */
export interface VmConfig {
  /** Shown in the process list. */
  readonly name: string;
  /** Private directory of the sandbox; the VMM's sockets are made in it. */
  readonly runDir: string;
  readonly accel: Accel;
  readonly cpus: number;
  /** vCPUs that may be plugged later; at least `cpus`. */
  readonly maxCpus: number;
  readonly memoryMiB: number;
  /** Memory including what may be added later; at least `memoryMiB`. */
  readonly maxMemoryMiB: number;
  /** Guest memory from huge pages of the host. */
  readonly hugepages?: boolean;
  /** All guest memory is taken from the host at start. */
  readonly preallocate?: boolean;
  readonly kernel: { readonly path: string; readonly format: KernelFormat };
  readonly initrd: string;
  /** Path of the firmware; absent: QEMU's own (SeaBIOS). */
  readonly firmware?: string | undefined;
  /** Appended to our own kernel command line. */
  readonly kernelParams: readonly string[];
  /** The guest's kernel makes the files of its trace events. */
  readonly tracefs?: boolean;
  /** Frequency of the guest's time stamp counter in kHz, where the guest could not tell it by itself. */
  readonly tscKhz?: number | undefined;
  /** Lets the guest kernel print its whole log on the console. */
  readonly verboseConsole?: boolean;
  /** Further CPU flags, e.g. "pmu=off". */
  readonly cpuFeatures?: string;
  /** Further machine options, e.g. "smm=off". */
  readonly machineOptions?: string;
  readonly sharedFs?: readonly SharedFsConfig[];
  readonly vsock?: VsockDevice;
  readonly nics: readonly NicConfig[];
  /** Network namespace in which the VMM runs. */
  readonly netnsPath?: string | undefined;
  /** PCIe root ports kept free for devices plugged later. */
  readonly rootPorts: number;
  /** Give pages that the guest freed back to the host. */
  readonly reclaimFreedMemory?: boolean;
  /** The VMM's own system call filter, in the syntax of QEMU's -sandbox; empty: none. */
  readonly seccomp: string;
  /**
   * An empty file in memory that becomes the guest's; absent: one of the VMM's own. Who saves a guest and who goes on from it need
   * it: QEMU keeps memory out of its state only where it was given the file (since 8.1, migration/ram.c).
   */
  readonly memoryFd?: number | undefined;
  /** Its guest is going to be saved, for machines that have it as `saved`. */
  readonly template?: boolean;
  /** Goes on from a saved guest instead of starting the kernel; the pod's devices come later then (WaitingVm). */
  readonly saved?: SavedGuest | undefined;
  /** Called for each line of the guest's console. */
  readonly onConsoleLine?: (line: string) => void;
}

/** Of a machine what belongs to one pod. */
export type PodDevices = Pick<VmConfig, "sharedFs" | "vsock" | "nics">;

/** A block device of the host for a running machine. */
export interface BlockConfig {
  /** Path of the device in the VMM's view. */
  readonly path: string;
  readonly readonly: boolean;
  /** By which the guest knows it: at most 20 bytes (virtio specification 5.2.6.1). */
  readonly serial: string;
}

/** A device that was plugged into a running machine. */
export interface PluggedDevice {
  readonly id: string;
}

export interface PluggedNic extends PluggedDevice {
  readonly mac: string;
}

/** Devices plugged into a running machine; the one owner of its free ports. */
export interface Hotplug {
  plugNic(nic: NicConfig, signal: AbortSignal): Promise<PluggedNic>;
  unplugNic(nic: PluggedNic, signal: AbortSignal): Promise<void>;
  plugBlock(block: BlockConfig, signal: AbortSignal): Promise<PluggedDevice>;
  unplugBlock(block: PluggedDevice, signal: AbortSignal): Promise<void>;
  addCpus(count: number, signal: AbortSignal): Promise<number>;
  setAddedMemory(sizeMiB: number, signal: AbortSignal): Promise<void>;
}

/** A VMM process. Disposing it kills the VM at once: a guest that should end in order is told so beforehand. */
export interface RunningVm extends AsyncReleasable {
  readonly pid: number;
  /** Milliseconds since the process was started. */
  readonly ageMs: number;
  /** Its age when it had read a saved guest; undefined where the kernel was started. */
  readonly readAgeMs: number | undefined;
  /** Resolves when the VMM's process ended, for whatever reason; never rejects. */
  readonly exited: Promise<ChildExit>;
  /** The same once it has; undefined before. */
  readonly exit: ChildExit | undefined;
  /** Resolves with ERR_UNAVAILABLE and its last words when it ended unasked. */
  readonly crashed: Promise<SandboxError>;
  /** What it and the guest said last, fit for a terminal: lines for an error, or nothing (last-words.ts). */
  lastWords(): string;
  /** The control connection; rejects when the VMM ended or did not answer in time. */
  readonly qmp: Promise<QmpClient>;
  /** Rejects as `qmp` does. */
  readonly hotplug: Promise<Hotplug>;
  /** SIGTERM, then SIGKILL after timeoutMs("childStop"). The guest gets no chance to shut down. */
  stop(): Promise<ChildExit>;
  kill(): Promise<ChildExit>;
}

/** A VMM with a saved guest that waits for its pod. Disposing it kills the VM. */
export interface WaitingVm extends AsyncReleasable {
  readonly pid: number;
  /** Resolves when the saved guest was read; rejects as goOn() does. */
  readonly read: Promise<void>;
  /**
   * Plugs the pod's devices and has the guest go on, which finds the line `orders` on its console. Called once; what it resolves
   * with owns the VM.
   * @throws SandboxError ERR_HOST, ERR_UNAVAILABLE (the VMM ended), ERR_DEADLINE, ERR_CANCELED; ERR_BOOT when the guest was read and
   *   the rest failed: what is behind the pod's devices may be of no use any more. The VM was killed then.
   */
  goOn(devices: PodDevices, orders: string, signal: AbortSignal): Promise<RunningVm>;
}

export interface Hypervisor {
  /**
   * Starts the VMM; resolves when its process runs. Whether the guest boots is seen by its hello, to be raced against
   * `crashed`.
   * @throws SandboxError ERR_HOST when the VMM cannot be executed, ERR_CANCELED.
   */
  launch(config: VmConfig, signal: AbortSignal): Promise<RunningVm>;
  /**
   * Starts the VMM with a saved guest; resolves when its process runs, which reads the guest from then on.
   * @throws as launch()
   */
  wake(config: VmConfig & { readonly saved: SavedGuest }, signal: AbortSignal): Promise<WaitingVm>;
}
