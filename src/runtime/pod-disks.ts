/** Block devices of the host that containers use (volumeDevices): each is plugged into the machine once, as a disk. */
import { readFileSync } from "node:fs";
import type { GuestAgent } from "../agent/guest-agent.ts";
import { describeError, SandboxError } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { timeoutMs } from "../base/timeouts.ts";
import type { UndoStack } from "../base/undo.ts";
import type { PluggedDevice, RunningVm } from "../hypervisor/hypervisor.ts";
import type { BlockPlan } from "../oci/devices.ts";

export interface PodDisksDeps {
  readonly log: Log;
  /** The machine, once it runs. */
  machine(): Promise<{ readonly vm: RunningVm; readonly agent: GuestAgent }>;
}

export interface DiskNumbers {
  readonly major: number;
  readonly minor: number;
}

interface Disk {
  readonly plugged: Promise<{ readonly device: PluggedDevice; readonly numbers: DiskNumbers }>;
  holders: number;
}

export class PodDisks {
  readonly #deps: PodDisksDeps;
  /** By numbers on the host, and whether it may be written. */
  readonly #disks = new Map<string, Disk>();
  #count = 0;

  constructor(deps: PodDisksDeps) {
    this.#deps = deps;
  }

  /**
   * Plugs the device that `plan` names unless a container of the pod has it already, and registers its release.
   * @returns its numbers in the guest.
   * @throws ERR_HOST when the host has no such device or QEMU refuses it, ERR_EXHAUSTED without a free port.
   */
  async attach(plan: BlockPlan, undo: UndoStack): Promise<DiskNumbers> {
    const key = `${plan.major}:${plan.minor} ${plan.readonly ? "ro" : "rw"}`;
    const disk = this.#disks.get(key) ?? { plugged: this.#plug(plan), holders: 0 };
    this.#disks.set(key, disk);
    disk.holders++;
    undo.defer(`disk ${plan.path}`, () => this.#letGo(key, disk));
    return (await disk.plugged).numbers;
  }

  async #plug(plan: BlockPlan) {
    const { vm, agent } = await this.#deps.machine();
    const path = hostPath(plan);
    const serial = `caisson${this.#count++}`;
    const signal = AbortSignal.timeout(timeoutMs("qmpCommand"));
    const hotplug = await vm.hotplug;
    const device = await hotplug.plugBlock({ path, readonly: plan.readonly, serial }, signal);
    try {
      const { name, major, minor } = await agent.calls.findBlockDevice({ serial });
      this.#deps.log.info({ path, dev: name }, `${path} was plugged in for ${plan.path}`);
      return { device, numbers: { major, minor } };
    } catch (error) {
      await this.#unplug(device);
      throw error;
    }
  }

  async #letGo(key: string, disk: Disk): Promise<void> {
    disk.holders--;
    if (disk.holders > 0) return;
    this.#disks.delete(key);
    // What was never plugged need not be unplugged.
    const plugged = await disk.plugged.catch(() => undefined);
    if (plugged !== undefined) await this.#unplug(plugged.device);
  }

  /** Never rejects: a machine that is gone has let go of everything. */
  async #unplug(device: PluggedDevice): Promise<void> {
    try {
      const { vm } = await this.#deps.machine();
      await (await vm.hotplug).unplugBlock(device, AbortSignal.timeout(timeoutMs("qmpCommand")));
    } catch (error) {
      this.#deps.log.debug({ err: describeError(error) }, `the disk ${device.id} was not unplugged`);
    }
  }
}

/** The kernel's own name of a block device, whatever the container engine called it. */
function hostPath({ major, minor, path }: BlockPlan): string {
  try {
    const text = readFileSync(`/sys/dev/block/${major}:${minor}/uevent`, "utf8");
    const name = /^DEVNAME=(.+)$/m.exec(text)?.[1];
    if (name !== undefined) return `/dev/${name}`;
  } catch (cause) {
    throw new SandboxError("ERR_HOST", `the host has no block device ${major}:${minor} for ${path}`, {
      cause,
    });
  }
  throw new SandboxError("ERR_HOST", `the host's block device ${major}:${minor} has no name`);
}
