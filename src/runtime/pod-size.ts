/**
 * The size of a running machine: it grows when its containers may use more than it was started with.
 *
 * vCPUs are plugged and stay: an idle one costs next to nothing, and the containers' own limits say who may use them.
 * Memory is offered in whole blocks; when less is needed the guest is asked to give some back, which it does as far as
 * its kernel can move what is there. What the guest reports counts, not what QEMU answers.
 */
import type { GuestAgent } from "../agent/guest-agent.ts";
import { describeError, SandboxError } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { timeoutMs } from "../base/timeouts.ts";
import type { RunningVm } from "../hypervisor/hypervisor.ts";
import type { OciResources } from "../oci/spec.ts";
import {
  containerLimits,
  type MachineSize,
  MEMORY_BLOCK_MIB,
  roundUp,
  type SizeLimits,
  sizeFor,
} from "./sizing.ts";

export interface PodSizeInit {
  /** What the machine is started with. */
  readonly boot: MachineSize;
  /** The most is whole memory blocks more than `boot`. */
  readonly limits: SizeLimits;
  readonly log: Log;
  /** The machine, once it runs. */
  machine(): Promise<{ readonly vm: RunningVm; readonly agent: GuestAgent }>;
  /** Told what the containers may use together, in cpus (undefined: no limit), before the first one begins and at changes. */
  limitHostCpu(cpus: number | undefined): void;
}

const MIB = 1 << 20;

export class PodSize {
  readonly #init: PodSizeInit;
  /** What each container may use. */
  readonly #resources = new Map<string, OciResources>();
  #cpus: number;
  #addedMiB = 0;
  /** The guest's memory before any was added, in bytes. */
  #bootBytes: bigint | undefined;
  #last: Promise<unknown> = Promise.resolve();

  constructor(init: PodSizeInit) {
    this.#init = init;
    this.#cpus = init.boot.cpus;
  }

  /** Valid once the machine runs. Makes room for a new container, as much as there is; the log says what to change when it is too little. */
  async admit(id: string, resources: OciResources = {}): Promise<void> {
    await this.#inTurn(async () => {
      const warn = (error: unknown) =>
        this.#init.log.warn({ container: id }, `container ${id} may use too much: ${describeError(error)}`);
      const refusal = this.#refusal(id, resources);
      if (refusal !== undefined) warn(refusal);
      this.#resources.set(id, resources);
      await this.#growTo(this.#sizeWith(new Map())).catch(warn);
      this.#init.limitHostCpu(this.#cpuLimit());
    });
  }

  /**
   * Changes what container `id` may use: makes room, then calls `apply`, which sets the limits in the guest.
   * @throws ERR_EXHAUSTED when the machine may not become that large, ERR_HOST when QEMU or the guest does not follow;
   *   `apply` was not called then.
   */
  async update(id: string, change: OciResources, apply: () => Promise<unknown>): Promise<void> {
    await this.#inTurn(async () => {
      const merged = mergeResources(this.#resources.get(id) ?? {}, change);
      const refusal = this.#refusal(id, merged);
      if (refusal !== undefined) throw refusal;
      await this.#growTo(this.#sizeWith(new Map([[id, merged]])));
      await apply();
      this.#resources.set(id, merged);
      this.#init.limitHostCpu(this.#cpuLimit());
      await this.#giveBack();
    });
  }

  /** Forgets a container that is gone. Never throws. */
  async release(id: string): Promise<void> {
    await this.#inTurn(async () => {
      if (!this.#resources.delete(id)) return;
      await this.#giveBack();
    });
  }

  /** Undefined when a container has no limit. */
  #cpuLimit(): number | undefined {
    const each = [...this.#resources.values()].map((resources) => containerLimits(resources).cpus);
    return each.reduce<number | undefined>(
      (sum, cpus) => (sum === undefined || cpus === undefined ? undefined : sum + cpus),
      0,
    );
  }

  #inTurn<T>(run: () => Promise<T>): Promise<T> {
    const turn = this.#last.then(run);
    this.#last = turn.catch(() => undefined);
    return turn;
  }

  #sizeWith(changes: ReadonlyMap<string, OciResources>): MachineSize {
    const all = new Map([...this.#resources, ...changes]);
    return sizeFor([...all.values()].map(containerLimits), this.#init.limits);
  }

  /** Why the machine cannot become as large as this change wants it. What is not raised is not refused. */
  #refusal(id: string, resources: OciResources): SandboxError | undefined {
    const now = this.#sizeWith(new Map());
    const wanted = this.#sizeWith(new Map([[id, resources]]));
    const { maxCpus, maxMemoryMiB } = this.#init.limits;
    if (wanted.cpus > maxCpus && wanted.cpus > now.cpus) {
      return tooLarge(`${wanted.cpus} vCPUs`, `${maxCpus}`, "default_maxvcpus");
    }
    return wanted.memoryMiB > maxMemoryMiB && wanted.memoryMiB > now.memoryMiB
      ? tooLarge(`${wanted.memoryMiB} MiB`, `${maxMemoryMiB} MiB`, "default_maxmemory")
      : undefined;
  }

  async #growTo(wanted: MachineSize): Promise<void> {
    const cpus = Math.min(wanted.cpus, this.#init.limits.maxCpus);
    const addedMiB = this.#addedFor(wanted);
    if (cpus > this.#cpus || addedMiB > this.#addedMiB) await this.#grow(cpus, addedMiB);
  }

  #addedFor({ memoryMiB }: MachineSize): number {
    const { boot, limits } = this.#init;
    const missing = Math.min(memoryMiB, limits.maxMemoryMiB) - boot.memoryMiB;
    return roundUp(Math.max(0, missing), MEMORY_BLOCK_MIB);
  }

  async #grow(cpus: number, addedMiB: number): Promise<void> {
    const { vm, agent } = await this.#init.machine();
    const hotplug = await vm.hotplug;
    const signal = AbortSignal.timeout(timeoutMs("qmpCommand"));
    this.#bootBytes ??= (await agent.calls.guestInfo({})).memoryTotalBytes;
    if (cpus > this.#cpus) this.#cpus += await hotplug.addCpus(cpus - this.#cpus, signal);
    const before = this.#addedMiB;
    const target = Math.max(addedMiB, before);
    if (target > before) await hotplug.setAddedMemory(target, signal);
    this.#addedMiB = target;
    try {
      await reached(agent, { cpus, memoryBytes: this.#bootBytes + BigInt(target) * BigInt(MIB) });
    } catch (error) {
      this.#addedMiB = before;
      if (target > before) await hotplug.setAddedMemory(before, signal).catch(() => undefined);
      throw error;
    }
    this.#init.log.info({}, `the machine has grown to ${this.#cpus} vCPUs and ${target} MiB added`);
  }

  /** Asks the guest for the memory that its containers may not use any more. It answers in its own time. */
  async #giveBack(): Promise<void> {
    const addedMiB = this.#addedFor(this.#sizeWith(new Map()));
    if (addedMiB >= this.#addedMiB) return;
    try {
      const { vm } = await this.#init.machine();
      const signal = AbortSignal.timeout(timeoutMs("qmpCommand"));
      await (await vm.hotplug).setAddedMemory(addedMiB, signal);
      this.#init.log.info({}, `the guest is asked to give back all but ${addedMiB} MiB of the added memory`);
      this.#addedMiB = addedMiB;
    } catch (error) {
      this.#init.log.debug({ err: describeError(error) }, "the guest could not be asked for memory");
    }
  }
}

function tooLarge(wanted: string, most: string, key: string): SandboxError {
  return new SandboxError(
    "ERR_EXHAUSTED",
    `the machine would need ${wanted} and can have ${most}: raise hypervisor.qemu.${key}`,
  );
}

/** Resolves when the guest has `wanted`. It is asked again as long as it comes nearer. @throws ERR_HOST */
async function reached(
  agent: GuestAgent,
  wanted: { readonly cpus: number; readonly memoryBytes: bigint },
): Promise<void> {
  let before = -1n;
  for (;;) {
    const { onlineCpus, memoryTotalBytes } = await agent.calls.onlineResources(wanted);
    if (onlineCpus >= wanted.cpus && memoryTotalBytes >= wanted.memoryBytes) return;
    if (memoryTotalBytes <= before || memoryTotalBytes >= wanted.memoryBytes) {
      throw new SandboxError(
        "ERR_HOST",
        onlineCpus < wanted.cpus
          ? `the guest uses ${onlineCpus} of ${wanted.cpus} vCPUs: its kernel takes no more at run time (from Linux 6.12 on only under KVM); set default_vcpus instead`
          : `the guest uses ${memoryTotalBytes / BigInt(MIB)} of ${wanted.memoryBytes / BigInt(MIB)} MiB: its kernel does not take the memory; it needs the module virtio_mem (see \`osbuilder show\`)`,
      );
    }
    before = memoryTotalBytes;
  }
}

/** What a container may use after an update: what the update does not name stays. */
function mergeResources(current: OciResources, change: OciResources): OciResources {
  return {
    cpu: { ...current.cpu, ...defined(change.cpu) },
    memory: { ...current.memory, ...defined(change.memory) },
  };
}

/** Without what says nothing: absent, null, and 0, which means "as it was" (runc, CRI). */
function defined(part: object | undefined): Record<string, unknown> {
  return Object.fromEntries(Object.entries(part ?? {}).filter(([, value]) => value));
}
