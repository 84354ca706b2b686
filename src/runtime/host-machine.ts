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
import { findQboot } from "../hypervisor/qemu/firmware.ts";
import { QemuHypervisor } from "../hypervisor/qemu/launch.ts";
import { startVirtiofsd, type VirtiofsCache } from "../hypervisor/virtiofsd.ts";
import { createMounter, startTscMeasurement } from "../native/index.ts";
import { rotatingFile } from "../persist/rotating-file.ts";
import type { VsockTransport } from "../vsock/transport.ts";
import { openVsockTransport } from "../vsock/transport.ts";
import type { Helper, LaunchParts, MachineDeps, SharedFs, SharedFsDaemon, VsockEndpoint } from "./boot.ts";
import { type HostNetworkInit, hostNetwork } from "./host-network.ts";
import type { MachineSize } from "./sizing.ts";
import type { Workspace } from "./workspace.ts";

/** Bytes of the guest console's log file, which is kept twice: the guest decides how much it writes. */
const CONSOLE_LIMIT_BYTES = 256 << 10;

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
    launch: (parts, signal) =>
      parts.workspace.spawn(
        "qemu",
        init.paths.qemu,
        () => launch(init, parts, tscKhz(), signal),
        () => failPoint("qemu.spawned"),
      ),
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

function launch(init: HostMachineInit, parts: LaunchParts, tscKhz: number | undefined, signal: AbortSignal) {
  const { config, paths, size, maxSize } = init;
  const { hypervisor } = config;
  const qemu = new QemuHypervisor({
    path: paths.qemu,
    log: init.log.child({ component: "qemu" }),
  });
  const consoleFile = rotatingFile(parts.workspace.paths.consoleLog, CONSOLE_LIMIT_BYTES);
  const firmware = hypervisor.firmware === "" ? findQboot(paths.qemu) : paths.firmware;
  return qemu.launch(
    {
      name: init.name,
      runDir: parts.workspace.paths.dir,
      accel: init.accel,
      cpus: size.cpus,
      maxCpus: maxSize.cpus,
      memoryMiB: size.memoryMiB,
      maxMemoryMiB: maxSize.memoryMiB,
      hugepages: hypervisor.enableHugepages,
      preallocate: hypervisor.enableMemPrealloc,
      kernel: paths.kernel,
      initrd: paths.initrd,
      firmware,
      kernelParams: [
        ...parts.vsock.transport.kernelParams,
        ...hypervisor.kernelParams.split(" ").filter((word) => word !== ""),
      ],
      tracefs: hypervisor.guestTracefs,
      tscKhz,
      verboseConsole: hypervisor.enableDebug,
      cpuFeatures: hypervisor.cpuFeatures,
      machineOptions: hypervisor.machineAccelerators,
      sharedFs: parts.sharedFs.daemons.map(({ socketPath, tag }) => ({
        socketPath,
        tag,
        queueSize: hypervisor.virtioFsQueueSize,
      })),
      vsock: parts.vsock.transport.device,
      nics: parts.network.nics,
      netnsPath: parts.network.netnsPath,
      rootPorts: hypervisor.pcieRootPort,
      reclaimFreedMemory: hypervisor.reclaimGuestFreedMemory,
      seccomp: hypervisor.seccompsandbox,
      onConsoleLine: (line) => {
        consoleFile.write(
          `${JSON.stringify({ time: new Date().toISOString(), component: "console", msg: line })}\n`,
        );
        init.log.debug({ component: "console" }, line);
      },
    },
    signal,
  );
}
