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
import type { BlockConfig, Hotplug, NicConfig, PluggedDevice, PluggedNic } from "../hypervisor.ts";
import { rootPortId } from "./argv.ts";
import { deviceOptions, tapOptions } from "./switches.ts";

/** Linux on x86 takes memory in blocks of this size (MIN_MEMORY_BLOCK_SIZE, arch/x86/mm/init_64.c). */
export const MEMORY_BLOCK_MIB = 128;

export class QemuHotplug implements Hotplug {
  readonly #qmp: QmpClient;
  readonly #freePorts: string[];
  readonly #portOf = new Map<string, string>();
  #nics = 0;
  #disks = 0;
  #modules = 0;

  /** @param rootPorts as many as the machine was started with; nobody else may use them. */
  constructor(qmp: QmpClient, rootPorts: number) {
    this.#qmp = qmp;
    this.#freePorts = Array.from({ length: rootPorts }, (_, index) => rootPortId(index));
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
   * @throws SandboxError ERR_DEADLINE when the guest keeps it.
   */
  async unplugNic(nic: PluggedNic, signal: AbortSignal): Promise<void> {
    if (!(await this.#unplug(nic.id, `the NIC ${nic.mac}`, signal))) return;
    await this.#qmp.execute("netdev_del", { id: `${nic.id}-net` }, { signal });
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
   * @throws SandboxError ERR_DEADLINE when the guest keeps it.
   */
  async unplugBlock({ id }: PluggedDevice, signal: AbortSignal): Promise<void> {
    if (!(await this.#unplug(id, "a block device", signal))) return;
    await this.#qmp.execute("blockdev-del", { "node-name": `${id}-node` }, { signal });
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
   * Plugs a memory module. It cannot be taken away again.
   * @param sizeMiB a multiple of MEMORY_BLOCK_MIB.
   * @throws SandboxError ERR_HOST with QEMU's reason: no slot, beyond the machine's maximum.
   */
  async addMemory(sizeMiB: number, signal: AbortSignal): Promise<void> {
    if (sizeMiB <= 0 || sizeMiB % MEMORY_BLOCK_MIB !== 0) {
      throw new SandboxError(
        "ERR_INVALID_ARGUMENT",
        `memory is plugged in multiples of ${MEMORY_BLOCK_MIB} MiB, not ${sizeMiB} MiB`,
      );
    }
    const id = `hotram${this.#modules++}`;
    await using undo = new UndoStack();
    const backend = { "qom-type": "memory-backend-memfd", id, size: sizeMiB * 1024 * 1024, share: true };
    await this.#qmp.execute("object-add", backend, { signal });
    undo.defer("backend", () => this.#tryUndo("object-del", { id }));
    await this.#qmp.execute("device_add", { driver: "pc-dimm", id: `${id}-dimm`, memdev: id }, { signal });
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

  /** Removes a device and frees its port. @returns false when it is not plugged. */
  async #unplug(id: string, what: string, signal: AbortSignal): Promise<boolean> {
    const port = this.#portOf.get(id);
    if (port === undefined) return false;
    const waiting = new AbortController();
    const gone = this.#qmp.waitFor("DEVICE_DELETED", (data) => data.device === id, waiting.signal);
    // Rejects when the wait is given up below, where the reason is known already.
    gone.catch(() => undefined);
    try {
      await this.#qmp.execute("device_del", { id }, { signal });
      await withDeadline(gone, timeoutMs("qmpCommand"), `the guest's release of ${what}`, signal);
    } finally {
      waiting.abort();
    }
    this.#portOf.delete(id);
    this.#freePorts.push(port);
    return true;
  }

  /** Hands the descriptors over by name and makes the backend of them. */
  async #addNetdev(id: string, nic: NicConfig, signal: AbortSignal): Promise<void> {
    await using handed = new UndoStack();
    const hand = async (kind: string, fds: readonly number[]): Promise<string[]> => {
      const names: string[] = [];
      for (const [index, fd] of fds.entries()) {
        const fdname = `${id}-${kind}${index}`;
        await this.#qmp.execute("getfd", { fdname }, { fds: [fd], signal });
        handed.defer(fdname, () => this.#tryUndo("closefd", { fdname }));
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
