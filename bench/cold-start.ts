/**
 * A cold start without containerd or ctr: the program `start`, Create and Start of a sandbox's only container, and what of
 * it is the shim's own. Not our own is what QEMU, the firmware and the guest's kernel take. From a template that is the time from
 * QEMU's start until the guest goes on, where its parts are there before it has read the guest (else the time from then on), and what
 * the guest's kernel then accounts to itself (/proc/stat: system, interrupts; read some ms after Start, in the kernel's ticks). Of a guest that boots its kernel's time is not known from then on at
 * which the agent runs, and counted as ours.
 */
import { busyboxRootfs, busyboxSpec, DirectShim } from "../test/harness/direct-shim.ts";
import type { ConfigOverrides } from "../test/harness/shim-config.ts";
import type { World } from "../test/harness/world.ts";

/** Milliseconds. */
export interface ColdStart {
  /** From the program `start` to the answer to Start. */
  readonly total: number;
  /** `total` less QEMU, firmware and the guest's kernel. */
  readonly own: number;
  /** What the guest's kernel took once the guest went on; undefined for one that boots. */
  readonly kernel: number | undefined;
  /** The parts of `total` but for QEMU's own, one after the other; the guest's kernel is in them. */
  readonly parts: {
    readonly program: number;
    /** From Create until QEMU is waited for: Node, configuration, workspace, and where they take longer virtiofsd, vsock, network. */
    readonly untilQemu: number;
    /** From the agent's execution, or from its going on in a machine from a template, until it dials the host. */
    readonly agent: number;
    readonly guestSetUp: number;
    /** The rest of Create: mounts, and the container in the guest. */
    readonly container: number;
    readonly startCall: number;
  };
}

/** What the shim logs once a guest is ready: milliseconds since the boot began, and `agentMs` of it. */
interface ReadyRecord {
  readonly prepared: number;
  readonly launched: number;
  /** Absent where the kernel was started, as the next one. */
  readonly read?: number;
  readonly restored?: number;
  readonly hello: number;
  readonly ready: number;
  readonly agentMs: number;
  readonly time: string;
}

export async function coldStart(world: World, id: string, config: ConfigOverrides): Promise<ColdStart> {
  const rootfs = [await busyboxRootfs(world)];
  const spec = busyboxSpec(world, id, ["sleep", "100000"]);
  await using shim = await DirectShim.start({ world, id, spec, config });
  const task = await shim.task();
  const begun = performance.now();
  await task.create({ id, bundle: shim.bundle, rootfs });
  const created = performance.now();
  await task.start({ id });
  const startCall = performance.now() - created;
  const { prepared, launched, read = 0, restored, hello, ready, agentMs, time } = readyRecord(shim.log());
  const readyAt = Date.parse(time) - performance.timeOrigin;
  const total = shim.startMs + (created - begun) + startCall;
  // Its parts are made beside a machine from a template: who is waited for is the slower of both.
  const qemuFrom = prepared > read ? Math.max(prepared, launched) : launched;
  const kernel = restored === undefined ? undefined : await kernelMs(shim);
  const others = restored === undefined ? hello - agentMs - qemuFrom : restored - qemuFrom + (kernel ?? 0);
  return {
    total,
    own: total - others,
    kernel,
    parts: {
      program: shim.startMs,
      untilQemu: readyAt - ready + qemuFrom - begun,
      agent: agentMs,
      guestSetUp: ready - hello,
      container: created - readyAt,
      startCall,
    },
  };
}

/** Milliseconds that the guest's kernel was busy since the guest went on. */
async function kernelMs(shim: DirectShim): Promise<number> {
  const { guest, guestError } = await (await shim.control()).stats({});
  if (guest === undefined) throw new Error(guestError);
  return Number(guest.kernelUsec) / 1e3;
}

/** The same of runc's shim: milliseconds from the program `start` to the answer to Start. */
export async function coldStartOfRunc(world: World, id: string, program: string): Promise<number> {
  const rootfs = [await busyboxRootfs(world)];
  const spec = busyboxSpec(world, id, ["sleep", "100000"]);
  await using shim = await DirectShim.start({ world, id, spec, program });
  const task = await shim.task();
  const begun = performance.now();
  await task.create({ id, bundle: shim.bundle, rootfs });
  await task.start({ id });
  return shim.startMs + performance.now() - begun;
}

function readyRecord(log: string): ReadyRecord {
  const line = log.split("\n").find((text) => text.includes('"the guest is ready"'));
  if (line === undefined) throw new Error("the shim logged no boot");
  return JSON.parse(line) as ReadyRecord;
}
