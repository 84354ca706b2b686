/**
 * The parts of a machine on this host: what bootMachine() needs, made from the configuration. Each part records what
 * it starts in the sandbox's journal.
 */

import { allOrAbort } from "../base/all-or-abort.ts";
import { failPoint } from "../base/failpoint.ts";
import { UndoStack } from "../base/undo.ts";
import type { ResolvedPaths } from "../config/index.ts";
import { checkVsockDaemon } from "../config/index.ts";
import { loadSupervisor, superviseChild } from "../hypervisor/child-process.ts";
import type { Accel } from "../hypervisor/hypervisor.ts";
import { startVirtiofsd, type VirtiofsCache } from "../hypervisor/virtiofsd.ts";
import { createMounter, startTscMeasurement } from "../native/index.ts";
import type { VsockTransport } from "../vsock/transport.ts";
import { openVsockTransport } from "../vsock/transport.ts";
import type { Helper, MachineDeps, SharedFs, SharedFsDaemon, VsockEndpoint } from "./boot.ts";
import { type HostNetworkInit, hostNetwork } from "./host-network.ts";
import { MachineLauncher } from "./machine-launcher.ts";
import type { MachineSize } from "./sizing.ts";
import type { Workspace } from "./workspace.ts";

/** Mount tags of the shared tree in the guest: for volumes, and for the containers' root file systems. */
const SHARED_TAG = "caissonShared";
const ROOTS_TAG = "caissonRoots";

export interface HostMachineInit extends HostNetworkInit {
  readonly name: string;
  readonly paths: ResolvedPaths;
  readonly accel: Accel;
  readonly maxSize: MachineSize;
}

export function hostMachineDeps(init: HostMachineInit, runDir: string): MachineDeps {
  // The emulator's counter is the host's own; KVM tells its guests.
  const tscKhz = init.accel === "tcg" ? startTscMeasurement() : () => undefined;
  const network = hostNetwork(init);
  const launcher = new MachineLauncher(init);
  return {
    mounts: createMounter({ beneath: runDir }),
    startSharedFs: (workspace, signal) => startSharedFs(init, workspace, signal),
    openVsock: (workspace, signal) => openVsock(init, workspace, signal),
    reserveNetwork: () => {
      const reservation = network.reserveNetwork();
      // While the sandbox's place is being made, which mostly waits for the kernel.
      void loadSupervisor();
      return reservation;
    },
    attachNetwork: network.attachNetwork,
    startAhead: (workspace, signal) => launcher.startAhead(workspace, network.reservedNetns(), signal),
    launch: (parts, signal) => launcher.launch(parts, tscKhz(), signal),
    launchFailed: () => launcher.failed(),
  };
}

/**
 * One daemon, or two of the same tree where root file systems are cached otherwise than volumes
 * (docs/decisions/0019-two-virtiofsds.md).
 */
async function startSharedFs(
  init: HostMachineInit,
  workspace: Workspace,
  signal: AbortSignal,
): Promise<SharedFs> {
  const { virtioFsCache, virtioFsRootCache } = init.config.hypervisor;
  const { virtiofsSocket, rootsVirtiofsSocket } = workspace.paths;
  const places = [{ tag: SHARED_TAG, socketPath: virtiofsSocket, cache: virtioFsCache }];
  if (virtioFsRootCache !== virtioFsCache) {
    places.push({ tag: ROOTS_TAG, socketPath: rootsVirtiofsSocket, cache: virtioFsRootCache });
  }
  await using undo = new UndoStack();
  const start = (place: SharedFsPlace) => async () =>
    undo.use("virtiofsd", await startDaemon(init, workspace, place));
  const daemons = await allOrAbort<SharedFsDaemon[]>(signal, places.map(start));
  const owned = undo.move();
  return {
    daemons,
    sharedTag: SHARED_TAG,
    rootsTag: places.at(-1)?.tag ?? SHARED_TAG,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

interface SharedFsPlace {
  readonly tag: string;
  readonly socketPath: string;
  readonly cache: VirtiofsCache;
}

async function startDaemon(
  { config, paths, log }: HostMachineInit,
  workspace: Workspace,
  { tag, socketPath, cache }: SharedFsPlace,
): Promise<SharedFsDaemon> {
  const { virtioFsExtraArgs, virtioFsDaemonFlavour } = config.hypervisor;
  const child = await workspace.spawn(
    "virtiofsd",
    paths.virtiofsd,
    () =>
      startVirtiofsd({
        path: paths.virtiofsd,
        ...(virtioFsDaemonFlavour !== "auto" && { flavour: virtioFsDaemonFlavour }),
        sharedDir: workspace.tree.guestPath,
        socketPath,
        cache,
        extraArgs: virtioFsExtraArgs,
        log,
      }),
    () => failPoint("virtiofsd.spawned"),
  );
  return Object.assign(child, { socketPath, tag });
}

async function openVsock(
  init: HostMachineInit,
  workspace: Workspace,
  signal: AbortSignal,
): Promise<VsockEndpoint> {
  let helper: Helper | undefined;
  const transport: VsockTransport = await openVsockTransport(
    {
      backend: init.config.hypervisor.vsockBackend,
      dir: workspace.paths.dir,
      daemonPath: () => checkVsockDaemon(init.config),
      spawn: async (name, file, args) => {
        const onStderrLine = (line: string) => init.log.info({ component: name }, line);
        const start = () => superviseChild({ name, file, args, log: init.log, onStderrLine });
        const child = await workspace.spawn(name, file, start, () => failPoint("vsock.spawned"));
        helper = child;
        return child;
      },
    },
    signal,
  );
  return { transport, helper, [Symbol.asyncDispose]: () => transport[Symbol.asyncDispose]() };
}
