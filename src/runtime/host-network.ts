/**
 * The pod's network as a part of the machine. The namespace is read and the wiring planned while the sandbox's place is
 * being made, which mostly waits for the kernel; with the place there, and its journal, the wiring alone is left.
 */
import { failPoint } from "../base/failpoint.ts";
import type { Log } from "../base/log.ts";
import { UndoStack } from "../base/undo.ts";
import type { Config } from "../config/index.ts";
import type { Netns, NetUndoRecord, PodReservation } from "../resources/net/index.ts";
import type { MachineDeps, MachineNetwork } from "./boot.ts";
import type { MachineSize } from "./sizing.ts";
import type { Workspace } from "./workspace.ts";

export interface HostNetworkInit {
  readonly config: Config;
  readonly size: MachineSize;
  /** The pod's network namespace; undefined: a new one, whose interfaces come later. */
  readonly netnsPath: string | undefined;
  readonly log: Log;
}

export interface HostNetwork extends Pick<MachineDeps, "reserveNetwork" | "attachNetwork"> {
  /** Where the VMM will run: a namespace, or none. Undefined where that is not known before attachNetwork(). */
  reservedNetns(): Promise<{ readonly path: string | undefined } | undefined>;
}

/** What was begun ahead. */
interface Reservation {
  /** A namespace of our own. */
  readonly own: Netns | undefined;
  /** Undefined where nothing can be planned ahead: a macvtap takes what was read away from the interface. */
  readonly pod: PodReservation | undefined;
}

export function hostNetwork(init: HostNetworkInit): HostNetwork {
  let begun: Promise<Reservation | undefined> | undefined;
  const take = async () => {
    const taken = begun;
    begun = undefined;
    return await taken;
  };
  return {
    reserveNetwork: () => {
      // What it failed for may have passed by then; attachNetwork() looks again and tells.
      begun = reserve(init).catch(() => undefined);
      return {
        [Symbol.asyncDispose]: async () => {
          const taken = await take();
          taken?.pod?.release();
          taken?.own?.close();
        },
      };
    },
    reservedNetns: async () => {
      const reserved = await begun;
      if (reserved === undefined) return undefined;
      const isNone = init.config.runtime.internetworkingModel === "none";
      return { path: isNone ? undefined : (init.netnsPath ?? reserved.own?.path) };
    },
    attachNetwork: async (workspace, signal) => attachNetwork(init, workspace, signal, await take()),
  };
}

/** Loaded by machines that have a network. */
function modules() {
  return Promise.all([import("../resources/net/index.ts"), import("./machine-network.ts")]);
}

async function reserve(init: HostNetworkInit): Promise<Reservation | undefined> {
  const { internetworkingModel: model } = init.config.runtime;
  if (model === "none") return { own: undefined, pod: undefined };
  const [{ makeNetns, reservePodNetwork }] = await modules();
  if (init.netnsPath === undefined) return { own: await makeNetns(), pod: undefined };
  if (model === "macvtap") return { own: undefined, pod: undefined };
  return { own: undefined, pod: await reservePodNetwork(optionsOf(init, init.netnsPath)) };
}

function optionsOf({ config, size, log }: HostNetworkInit, netnsPath: string) {
  return {
    netnsPath,
    model: config.runtime.internetworkingModel,
    queues: config.hypervisor.networkQueues || Math.min(size.cpus, 8),
    vhost: config.hypervisor.disableVhostNet ? "off" : "auto",
    log,
  } as const;
}

async function attachNetwork(
  init: HostNetworkInit,
  workspace: Workspace,
  signal: AbortSignal,
  reserved: Reservation | undefined,
): Promise<MachineNetwork> {
  const { config, log } = init;
  if (config.runtime.internetworkingModel === "none") return noNetwork;
  const [{ attachPodNetwork, makeNetns, undoPodNetwork }, { machineNetwork }] = await modules();
  await using undo = new UndoStack();
  const own = reserved?.own ?? (init.netnsPath === undefined ? await makeNetns() : undefined);
  undo.defer("network namespace", () => own?.close());
  const netnsPath = own?.path ?? init.netnsPath ?? "";
  const journalled = new Map<number, unknown>();
  const undone = () => {
    for (const number of journalled.keys()) workspace.journal.done(number);
  };
  const journal = (plan: NetUndoRecord) => {
    const number = workspace.journal.add({ kind: "net", plan });
    journalled.set(number, plan);
    failPoint("network.journalled");
    return () => {
      journalled.delete(number);
      workspace.journal.done(number);
    };
  };
  const attaching =
    reserved?.pod?.attach(journal, signal) ??
    attachPodNetwork({ ...optionsOf(init, netnsPath), journal }, signal);
  const network = await attaching.catch(async (error: unknown) => {
    // It has undone itself, or says in the error that it could not; what the journal says is made sure of.
    for (const plan of journalled.values()) await undoPodNetwork(plan);
    undone();
    throw error;
  });
  const machine = machineNetwork({
    network,
    netnsPath,
    own: own !== undefined,
    portForward: config.runtime.portForward,
    log: log.child({ component: "network" }),
  });
  undo.defer("wiring", async () => {
    await machine[Symbol.asyncDispose]();
    undone();
  });
  const owned = undo.move();
  return { ...machine, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

const noNetwork: MachineNetwork = {
  nics: [],
  guest: () => ({}),
  netnsPath: undefined,
  inherited: () => undefined,
  serve: async () => ({ settled: async () => undefined, [Symbol.asyncDispose]: async () => undefined }),
  [Symbol.asyncDispose]: async () => undefined,
};
