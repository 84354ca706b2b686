/**
 * The pod's network of a running machine: NICs that CNI adds or removes later are plugged and unplugged, changes are
 * told to the guest, and connections to the namespace's localhost are handed to the guest.
 */
import type { GuestAgent } from "../agent/guest-agent.ts";
import { describeError } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { timeoutMs } from "../base/timeouts.ts";
import { type AsyncReleasable, UndoStack } from "../base/undo.ts";
import type { PluggedNic, RunningVm } from "../hypervisor/hypervisor.ts";
import { bootNetdevId } from "../hypervisor/qemu/pod-devices.ts";
import {
  LocalhostForward,
  type PodNetwork,
  type PodNetworkHandlers,
  PodNetworkWatch,
  type PodNic,
} from "../resources/net/index.ts";
import type { MachineNetwork, NetworkService } from "./boot.ts";

export interface MachineNetworkInit {
  readonly network: PodNetwork;
  readonly netnsPath: string;
  /** The namespace was made by us, and whoever started the container may put interfaces into it before its start. */
  readonly own: boolean;
  /** Take connections to the namespace's localhost. */
  readonly portForward: boolean;
  readonly log: Log;
}

/** Owns `init.network`. */
export function machineNetwork(init: MachineNetworkInit): MachineNetwork {
  const { network, netnsPath } = init;
  return {
    nics: network.nics,
    guest: () => network.guest,
    netnsPath,
    inherited: () => network.closeFds(),
    serve: (vm, agent) => serve(init, vm, agent),
    [Symbol.asyncDispose]: () => network.detach(),
  };
}

/** A part that cannot be had is a warning: the pod works without. */
async function serve(init: MachineNetworkInit, vm: RunningVm, agent: GuestAgent): Promise<NetworkService> {
  await using undo = new UndoStack();
  const { network, netnsPath, log } = init;
  const abort = new AbortController();
  const attempt = async <T extends AsyncReleasable>(what: string, open: () => Promise<T>) => {
    try {
      return undo.use(what, await open());
    } catch (error) {
      log.warn({ err: describeError(error) }, `the sandbox does without ${what}`);
      return undefined;
    }
  };
  if (init.portForward) {
    await attempt("connections from the namespace's localhost", () =>
      LocalhostForward.open({ netnsPath, log, dial: (to, signal) => agent.openForward(to, signal) }),
    );
  }
  const watch = await attempt("following the pod's network", () =>
    PodNetworkWatch.open(network, nicHandlers(init, vm, agent, abort.signal), log),
  );
  // Released first: what waits for a guest or a QEMU that is about to end must not hold up the end.
  undo.defer("pending work", () => abort.abort());
  const owned = undo.move();
  return {
    settled: async () => {
      if (init.own) await watch?.settled();
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

function nicHandlers(
  { network, log }: MachineNetworkInit,
  vm: RunningVm,
  agent: GuestAgent,
  signal: AbortSignal,
): PodNetworkHandlers {
  const booted = new Map(network.nics.map((nic, index) => [nic, bootNetdevId(index)]));
  const plugged = new Map<PodNic, PluggedNic>();
  return {
    async nicAdded(nic) {
      const hotplug = await vm.hotplug;
      plugged.set(nic, await hotplug.plugNic(nic, signal));
      network.closeFds();
      log.info({ dev: nic.ifname, mac: nic.mac }, `${nic.ifname} was added to the pod and plugged in`);
    },
    async nicRemoved(nic) {
      const netdev = booted.get(nic);
      const late = plugged.get(nic);
      // A NIC of the boot sits on a bus without hotplug and stays; without its backend its cable is unplugged.
      if (netdev !== undefined) await (await vm.qmp).execute("netdev_del", { id: netdev }, { signal });
      else if (late !== undefined) await (await vm.hotplug).unplugNic(late, signal);
      booted.delete(nic);
      plugged.delete(nic);
      log.info({ dev: nic.ifname, mac: nic.mac }, `${nic.ifname} was removed from the pod and unplugged`);
    },
    async guestChanged(guest) {
      await agent.calls.applyNetwork(guest, { signal, timeoutMs: timeoutMs("agentCall") });
      log.debug({}, "the guest follows a change of the pod's network");
    },
  };
}
