/**
 * Devices plugged into a running machine: NICs and disks on the PCIe root ports kept for them, vCPUs, memory.
 *
 * What QEMU answers says that it offered the device, not that the guest uses it: ask the guest. Removal needs the guest
 * to let go, so it waits for QEMU's event, with a deadline.
 */
import { withDeadline } from "../../base/deadline.ts";
import { SandboxError } from "../../base/errors.ts";
import { timeoutMs } from "../../base/timeouts.ts";
import { UndoStack } from "../../base/undo.ts";
import type { JsonObject, QmpClient } from "../../qmp/index.ts";
import type { BlockConfig, Hotplug, NicConfig, PluggedDevice, PluggedNic, VmConfig } from "../hypervisor.ts";
import { rootPortId } from "./argv.ts";
import { deviceOptions, tapOptions } from "./switches.ts";

const MIB = 1024 * 1024;
/** Name of the one virtio-mem device. */
const MEMORY_DEVICE = "hotmem";

/** What of the machine's configuration matters to what is plugged into it. */
export type HotplugConfig = Pick<
  VmConfig,
  "rootPorts" | "memoryMiB" | "maxMemoryMiB" | "hugepages" | "preallocate"
>;

export class QemuHotplug implements Hotplug {
  readonly #qmp: QmpClient;
  readonly #config: HotplugConfig;
  readonly #freePorts: string[];
  readonly #portOf = new Map<string, string>();
  /** Devices that the guest was asked to let go of, by id; resolves when nothing of one is left. */
  readonly #leaving = new Map<string, Promise<void>>();
  #nics = 0;
  #disks = 0;
  #hasMemoryDevice = false;

  /** @param config of the running machine; nobody else may use its root ports. */
  constructor(qmp: QmpClient, config: HotplugConfig) {
    this.#qmp = qmp;
    this.#config = config;
    this.#freePorts = Array.from({ length: config.rootPorts }, (_, index) => rootPortId(index));
  }

  get freePorts(): number {
    return this.#freePorts.length;
  }

  /**
   * Plugs a NIC. The descriptors of `nic` stay the caller's: QEMU has its own copies afterwards. Those of several queues
   * are good for one attempt, even a failed one: QEMU detaches all queues but the first until the guest asks for them, and
   * aborts when it finds one detached already. Open the tap anew.
   * @throws SandboxError ERR_EXHAUSTED without a free port, ERR_HOST with QEMU's reason; nothing is left plugged then.
   */
  async plugNic(nic: NicConfig, signal: AbortSignal): Promise<PluggedNic> {
    const port = this.#takePort();
    const id = `hotnic${this.#nics++}`;
    await using undo = new UndoStack();
    undo.defer("port", () => void this.#freePorts.unshift(port));
    const netdev = `${id}-net`;
    await this.#addNetdev(netdev, nic, signal);
    undo.defer("netdev", () => this.#tryUndo("netdev_del", { id: netdev }));
    const device = {
      device: "virtio-net-pci",
      id,
      netdev,
      mac: nic.mac,
      mtu: nic.mtu,
      queues: nic.tapFds.length,
    } as const;
    await this.#qmp.execute(
      "device_add",
      { driver: device.device, bus: port, ...deviceOptions(device) },
      { signal },
    );
    this.#portOf.set(id, port);
    undo.move();
    return { id, mac: nic.mac };
  }

  /**
   * Unplugs a NIC and waits until the guest let it go. May be called again after a failure.
   * @throws SandboxError ERR_DEADLINE when the guest keeps it; whenever it lets go later, nothing is left of it either.
   */
  async unplugNic(nic: PluggedNic, signal: AbortSignal): Promise<void> {
    const backend = () => this.#qmp.execute("netdev_del", { id: `${nic.id}-net` });
    await this.#unplug(nic.id, `the NIC ${nic.mac}`, backend, signal);
  }

  /**
   * Plugs a block device of the host.
   * @throws SandboxError ERR_EXHAUSTED without a free port, ERR_HOST with QEMU's reason; nothing is left plugged then.
   */
  async plugBlock({ path, readonly, serial }: BlockConfig, signal: AbortSignal): Promise<PluggedDevice> {
    const port = this.#takePort();
    const id = `hotdisk${this.#disks++}`;
    await using undo = new UndoStack();
    undo.defer("port", () => void this.#freePorts.unshift(port));
    const node = `${id}-node`;
    const backend = {
      driver: "host_device",
      "node-name": node,
      filename: path,
      "read-only": readonly,
      // The host's page cache would hold everything twice, and be charged to whoever comes first.
      cache: { direct: true },
      discard: "unmap",
    };
    await this.#qmp.execute("blockdev-add", backend, { signal });
    undo.defer("block backend", () => this.#tryUndo("blockdev-del", { "node-name": node }));
    const device = { device: "virtio-blk-pci", id, drive: node, serial } as const;
    const options = { driver: device.device, bus: port, ...deviceOptions(device) };
    await this.#qmp.execute("device_add", options, { signal });
    this.#portOf.set(id, port);
    undo.move();
    return { id };
  }

  /**
   * Unplugs a block device and waits until the guest let it go. May be called again after a failure.
   * @throws SandboxError ERR_DEADLINE when the guest keeps it; whenever it lets go later, nothing is left of it either.
   */
  async unplugBlock({ id }: PluggedDevice, signal: AbortSignal): Promise<void> {
    const backend = () => this.#qmp.execute("blockdev-del", { "node-name": `${id}-node` });
    await this.#unplug(id, "a block device", backend, signal);
  }

  /**
   * Plugs up to `count` vCPUs. The guest still has to bring them online.
   * @returns how many were plugged; fewer than asked for when the machine's maximum is reached.
   */
  async addCpus(count: number, signal: AbortSignal): Promise<number> {
    const all = await this.#qmp.execute("query-hotpluggable-cpus", undefined, { signal });
    const free = all.filter((cpu) => cpu["qom-path"] === undefined);
    // QEMU lists the highest first; the guest's numbers follow the order of plugging.
    const chosen = free.reverse().slice(0, count);
    for (const cpu of chosen) {
      const id = `hotcpu${Object.values(cpu.props).join("-")}`;
      await this.#qmp.execute("device_add", { ...cpu.props, driver: cpu.type, id }, { signal });
    }
    return chosen.length;
  }

  /**
   * Offers the guest `sizeMiB` of memory beyond what it was started with: more than now, or less. It takes and gives
   * back by itself, as far as it can; ask it what it has. One device is plugged for that when it is first needed.
   * @throws SandboxError ERR_EXHAUSTED without a free port, ERR_HOST with QEMU's reason: beyond the machine's maximum.
   */
  async setAddedMemory(sizeMiB: number, signal: AbortSignal): Promise<void> {
    if (!this.#hasMemoryDevice && sizeMiB === 0) return;
    if (!this.#hasMemoryDevice) await this.#plugMemory(signal);
    const path = `/machine/peripheral/${MEMORY_DEVICE}`;
    const value = sizeMiB * MIB;
    await this.#qmp.execute("qom-set", { path, property: "requested-size", value }, { signal });
  }

  async #plugMemory(signal: AbortSignal): Promise<void> {
    const { memoryMiB, maxMemoryMiB, hugepages, preallocate } = this.#config;
    const port = this.#takePort();
    await using undo = new UndoStack();
    undo.defer("port", () => void this.#freePorts.unshift(port));
    const memdev = `${MEMORY_DEVICE}-ram`;
    const backend = {
      "qom-type": "memory-backend-memfd",
      id: memdev,
      size: (maxMemoryMiB - memoryMiB) * MIB,
      share: true,
      hugetlb: hugepages === true,
      // The host gives pages as the guest takes them.
      reserve: false,
    };
    await this.#qmp.execute("object-add", backend, { signal });
    undo.defer("backend", () => this.#tryUndo("object-del", { id: memdev }));
    const device = {
      device: "virtio-mem-pci",
      id: MEMORY_DEVICE,
      memdev,
      preallocate: preallocate === true,
    } as const;
    const options = { driver: device.device, bus: port, ...deviceOptions(device) };
    await this.#qmp.execute("device_add", options, { signal });
    this.#hasMemoryDevice = true;
    undo.move();
  }

  #takePort(): string {
    const port = this.#freePorts.shift();
    if (port !== undefined) return port;
    throw new SandboxError(
      "ERR_EXHAUSTED",
      "no PCIe port is free for another device; raise hypervisor.qemu.pcie_root_port",
    );
  }

  /** Asks the guest for a device and waits until it, its backend and its port are free. Nothing to do for one that is not plugged. */
  async #unplug(
    id: string,
    what: string,
    removeBackend: () => Promise<unknown>,
    signal: AbortSignal,
  ): Promise<void> {
    const port = this.#portOf.get(id);
    if (port === undefined) return;
    const before = this.#leaving.get(id);
    const waiting = new AbortController();
    const gone = before ?? this.#whenGone(id, port, removeBackend, waiting.signal);
    this.#leaving.set(id, gone);
    try {
      await this.#qmp.execute("device_del", { id }, { signal });
    } catch (error) {
      // QEMU refuses a second request while the guest still has the first.
      if (before === undefined) {
        waiting.abort();
        this.#leaving.delete(id);
        throw error;
      }
    }
    await withDeadline(gone, timeoutMs("qmpCommand"), `the guest's release of ${what}`, signal);
  }

  /** @param signal aborts when the guest was not asked after all; nothing else ends the wait but the end of QEMU. */
  #whenGone(
    id: string,
    port: string,
    removeBackend: () => Promise<unknown>,
    signal: AbortSignal,
  ): Promise<void> {
    const deleted = this.#qmp.waitFor("DEVICE_DELETED", (data) => data.device === id, signal);
    const gone = deleted.then(async () => {
      this.#leaving.delete(id);
      this.#portOf.delete(id);
      this.#freePorts.push(port);
      await removeBackend();
    });
    gone.catch(() => undefined);
    return gone;
  }

  /** Hands the descriptors over by name and makes the backend of them. */
  async #addNetdev(id: string, nic: NicConfig, signal: AbortSignal): Promise<void> {
    await using handed = new UndoStack();
    const hand = async (kind: string, fds: readonly number[]): Promise<string[]> => {
      const names: string[] = [];
      for (const [index, fd] of fds.entries()) {
        const fdname = `${id}-${kind}${index}`;
        await this.#qmp.execute("getfd", { fdname }, { fds: [fd], signal });
        handed.defer(`descriptor ${fdname}`, () => this.#tryUndo("closefd", { fdname }));
        names.push(fdname);
      }
      return names;
    };
    const tapFds = await hand("tap", nic.tapFds);
    const vhostFds = await hand("vhost", nic.vhostFds);
    await this.#qmp.execute(
      "netdev_add",
      { ...tapOptions({ id, tapFds, vhostFds }), type: "tap", id },
      { signal },
    );
    // The backend owns them now.
    handed.move();
  }

  /** An undo command whose failure must not hide why it was needed. */
  async #tryUndo(
    command: "closefd" | "netdev_del" | "object-del" | "blockdev-del",
    args: JsonObject,
  ): Promise<void> {
    await this.#qmp.executeRaw(command, args).catch(() => undefined);
  }
}
