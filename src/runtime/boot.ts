/**
 * Boots a sandbox's machine: everything that does not depend on something else runs at the same time, nothing polls,
 * and readiness is the agent's own hello, raced against the exit of every process that the guest needs.
 *
 *   vsock backend ─┐
 *   pod network  ──┼─> QEMU ──> hello ──> CreateSandbox ──> Machine
 *   virtiofsd  ────┘
 *
 * A QEMU that goes on from a template starts beside these, and is given its devices when they are there.
 */
import { GuestAgent, type GuestDialer } from "../agent/guest-agent.ts";
import { allOrAbort } from "../base/all-or-abort.ts";
import { causeOf } from "../base/cause.ts";
import { describeError, SandboxError } from "../base/errors.ts";
import { failPoint, type NamedPoint } from "../base/failpoint.ts";
import type { Log } from "../base/log.ts";
import { timeoutMs } from "../base/timeouts.ts";
import { spanEnded, traced } from "../base/trace.ts";
import { type AsyncReleasable, UndoStack } from "../base/undo.ts";
import type { Event } from "../gen/caisson/agent/v1/agent_pb.ts";
import type { RunningVm, VmConfig } from "../hypervisor/hypervisor.ts";
import { withLastWords } from "../hypervisor/last-words.ts";
import { type MountSyscalls, SENTINEL_NAME } from "../resources/share/shared-tree.ts";
import { countedTransport, type LinkCounters } from "../vsock/counted-transport.ts";
import type { VsockTransport } from "../vsock/transport.ts";
import type { Workspace } from "./workspace.ts";

/** A helper process of the machine. */
export interface Helper extends AsyncReleasable {
  readonly pid: number;
  /** Resolves with a sentence when it ended unasked; stays pending otherwise. */
  readonly crashed: Promise<SandboxError>;
}

/** Serves the shared tree. */
export interface SharedFsDaemon extends Helper {
  readonly socketPath: string;
  /** Of its virtio-fs device. */
  readonly tag: string;
}

/** The daemons of the shared tree, and which of them the guest uses for what. */
export interface SharedFs extends AsyncReleasable {
  readonly daemons: readonly SharedFsDaemon[];
  /** Tags of the guest's mounts: of volumes, and of the containers' root file systems. */
  readonly sharedTag: string;
  readonly rootsTag: string;
}

export interface VsockEndpoint extends AsyncReleasable {
  readonly transport: VsockTransport;
  /** The user-space backend's process, where there is one. */
  readonly helper: Helper | undefined;
}

/** The pod's network as the machine needs it; `none` has no NIC. */
export interface MachineNetwork extends AsyncReleasable {
  readonly nics: VmConfig["nics"];
  /** What the guest is told, as ApplyNetworkRequest. */
  guest(): Parameters<GuestAgent["calls"]["applyNetwork"]>[0];
  readonly netnsPath: string | undefined;
  /** Called once the VMM has inherited the NICs' descriptors. */
  inherited(): void;
  /** Follows the pod's namespace from the hello on, until what it resolves with is released. Never rejects. */
  serve(vm: RunningVm, agent: GuestAgent): Promise<NetworkService>;
}

export interface NetworkService extends AsyncReleasable {
  /** Resolves when the guest has what was put into a namespace of our own making since the boot. Never rejects. */
  settled(): Promise<void>;
}

export interface MachineDeps {
  readonly mounts: MountSyscalls;
  startSharedFs(workspace: Workspace, signal: AbortSignal): Promise<SharedFs>;
  openVsock(workspace: Workspace, signal: AbortSignal): Promise<VsockEndpoint>;
  /** Begins what attachNetwork() needs and changes nothing. Released by it, or by the caller who never calls it. */
  reserveNetwork(): AsyncReleasable;
  attachNetwork(workspace: Workspace, signal: AbortSignal): Promise<MachineNetwork>;
  /**
   * Starts the VMM ahead of its parts where it can do without them for a while. Released by launch(), or by the caller who never
   * calls it.
   */
  startAhead(workspace: Workspace, signal: AbortSignal): StartedAhead;
  /** Starts the VMM, or gives its parts to the one that runs; resolves when its process runs with them. */
  launch(parts: LaunchParts, signal: AbortSignal): Promise<RunningVm>;
  /** The guest that was launched said no hello, for a reason of its own. */
  launchFailed(): void;
}

export interface StartedAhead extends AsyncReleasable {
  /** When its process runs, or there is none; never rejects. */
  readonly started: Promise<unknown>;
}

export interface LaunchParts {
  readonly workspace: Workspace;
  readonly sharedFs: SharedFs;
  readonly vsock: VsockEndpoint;
  readonly network: MachineNetwork;
}

export interface GuestSetup {
  readonly sandboxId: string;
  readonly hostname: string;
  readonly shmSizeBytes: number;
  readonly sysctls: Readonly<Record<string, string>>;
  readonly sharePidNamespace: boolean;
}

export interface BootInit {
  readonly workspace: Workspace;
  readonly guest: GuestSetup;
  readonly guestLogLevel: string;
  /** Milliseconds from QEMU's start to the agent's hello. */
  readonly helloLimitMs: number;
  readonly log: Log;
  readonly onEvent: (event: Event) => void;
  /** The guest has been asked to set itself up: a container that it is asked for from now on waits for that, in the guest. Idempotent. */
  readonly onGreeted?: (agent: GuestAgent) => void;
}

/** A machine that said hello and was set up. Disposing it ends the VM and everything that served it. */
export interface Machine extends AsyncReleasable {
  readonly vm: RunningVm;
  readonly agent: GuestAgent;
  /** Resolves with the reason when the VM, a helper or the agent's connection was lost unasked. */
  readonly lost: Promise<SandboxError>;
  /** To wait for before a container starts: CNI may have added interfaces after the boot. Never rejects. */
  networkSettled(): Promise<void>;
  /** Milliseconds of each step. */
  readonly steps: Readonly<Record<string, number>>;
  /** What went between host and guest. */
  readonly link: Readonly<LinkCounters>;
}

/** What an agent can do that takes CreateContainer before it has answered CreateSandbox (docs/protocol.md). */
const CREATE_AHEAD = "create-ahead";

/** @throws ERR_BOOT with the last words of QEMU and the guest; everything acquired is released. */
export async function bootMachine(deps: MachineDeps, init: BootInit, signal: AbortSignal): Promise<Machine> {
  await using undo = new UndoStack();
  const { workspace, log } = init;
  const steps: Record<string, number> = {};
  const startedAt = performance.now();
  const mark = (name: string, agoMs = 0) => {
    steps[name] = Math.round((performance.now() - startedAt - agoMs) * 10) / 10;
  };
  const ahead = undo.use("vm ahead of its parts", deps.startAhead(workspace, signal));
  // The wiring first: its thread in the pod's namespace works while the processes are being spawned. Of these the VMM takes longest.
  const [network, sharedFs, vsock] = await allOrAbort<[MachineNetwork, SharedFs, VsockEndpoint]>(signal, [
    (abort) =>
      traced("network attach", async () =>
        passing("network.wired", undo.use("network", await deps.attachNetwork(workspace, abort))),
      ),
    (abort) =>
      traced("virtiofsd start", async () => {
        await ahead.started;
        return undo.use("shared file systems", await deps.startSharedFs(workspace, abort));
      }),
    (abort) =>
      traced("vsock open", async () => {
        await ahead.started;
        return passing("vsock.ready", undo.use("vsock", await deps.openVsock(workspace, abort)));
      }),
  ]);
  mark("prepared");
  const parts = { workspace, sharedFs, vsock, network };
  const vm = undo.use("vm", await traced("qemu launch", () => deps.launch(parts, signal)));
  vsock.transport.deviceInherited();
  network.inherited();
  mark("launched", vm.ageMs);
  if (vm.readAgeMs !== undefined) {
    mark("read", vm.ageMs - vm.readAgeMs);
    mark("restored");
  }
  failPoint("boot.launched");
  const crashed = firstCrash(vm, [
    ...sharedFs.daemons,
    ...(vsock.helper === undefined ? [] : [vsock.helper]),
  ]);
  const transport = countedTransport(vsock.transport);
  // Written while the guest begins.
  const sentinel = workspace.tree.placeSentinel();
  undo.defer("sentinel", () => sentinel.then(ignore, ignore));
  const agent = undo.use(
    "agent",
    await traced("guest boot", async () => {
      const greeted = await awaitHello(init, vm, transport, crashed, signal).catch((error: unknown) => {
        if (!signal.aborted && isOfTheGuest(error, vm)) deps.launchFailed();
        throw error;
      });
      traceGuestSteps(greeted.hello.bootSteps);
      return greeted;
    }),
  );
  mark("hello");
  failPoint("boot.hello");
  await traced("guest set-up", () => setUpGuest(init, agent, parts, sentinel, crashed, signal));
  const service = undo.use("network service", await network.serve(vm, agent));
  init.onGreeted?.(agent);
  mark("ready");
  failPoint("boot.ready");
  // QEMU may have been started before its parts were there.
  const inOrder = Object.fromEntries(Object.entries(steps).sort(([, one], [, other]) => one - other));
  log.info({ ...inOrder, agentMs: agentMs(agent.hello.bootSteps), vmPid: vm.pid }, "the guest is ready");
  const owned = undo.move();
  return {
    vm,
    agent,
    steps: inOrder,
    link: transport.counters,
    networkSettled: () => service.settled(),
    lost: Promise.race([crashed, agent.lost]),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

const ignore = () => undefined;

type GuestSteps = readonly { readonly name: string; readonly uptimeUs: bigint }[];

/** The first step of a guest that went on from a template. */
const RESTORED = "restored";

/** Milliseconds from the agent's execution, or its going on, until it has a connection to the host, as the guest tells it. */
function agentMs(steps: GuestSteps): number {
  const at = (...wanted: string[]) => Number(steps.find(({ name }) => wanted.includes(name))?.uptimeUs ?? 0n);
  return Math.round((at("connected") - at("init", RESTORED)) / 100) / 10;
}

/** The guest's own steps up to its hello as spans: their ends are told in microseconds since its kernel began. */
function traceGuestSteps(steps: GuestSteps): void {
  const helloUs = Number(steps.at(-1)?.uptimeUs ?? 0n);
  const kernelBeganMs = performance.timeOrigin + performance.now() - helloUs / 1e3;
  // The time before, in which it was saved, was not this boot's.
  const [first, ...later] = steps;
  const isRestored = first?.name === RESTORED;
  let beganMs = kernelBeganMs + (isRestored ? Number(first.uptimeUs) / 1e3 : 0);
  for (const { name, uptimeUs } of isRestored ? later : steps) {
    const endedMs = kernelBeganMs + Number(uptimeUs) / 1e3;
    spanEnded(`guest ${name.slice(0, 32)}`, beganMs, endedMs);
    beganMs = endedMs;
  }
}

function passing<T>(point: NamedPoint, value: T): T {
  failPoint(point);
  return value;
}

/**
 * Resolves when the VMM or a helper ended unasked. A helper that failed takes QEMU down and is the reason. One that
 * ended well did so because QEMU was gone, and may be seen first: QEMU, which knows why, gets a moment to be seen too.
 */
export function firstCrash(vm: RunningVm, helpers: readonly Helper[]): Promise<SandboxError> {
  const helperCrash = Promise.race(helpers.map((helper) => helper.crashed));
  const settled = helperCrash.then(async (reason) => {
    return reason.fields.exitCode === 0 ? await causeOf(reason, vm.crashed) : reason;
  });
  return Promise.race([vm.crashed, settled]);
}

/** Whether a boot failed for what was booted: not when something was killed, here or there. */
function isOfTheGuest(error: unknown, vm: RunningVm): boolean {
  const isSilent = error instanceof SandboxError && error.fields.silent === true;
  return isSilent || (vm.exit !== undefined && vm.exit.signal === undefined);
}

/** @throws ERR_BOOT with the last words of QEMU and the guest */
export async function awaitHello(
  init: Pick<BootInit, "guestLogLevel" | "helloLimitMs" | "log" | "onEvent">,
  vm: RunningVm,
  transport: GuestDialer,
  crashed: Promise<SandboxError>,
  signal: AbortSignal,
): Promise<GuestAgent> {
  const controller = new AbortController();
  const limit = init.helloLimitMs;
  const timer = setTimeout(
    () =>
      controller.abort(
        new SandboxError("ERR_BOOT", withLastWords(`the guest said no hello within ${limit} ms`, vm), {
          fields: { silent: true },
        }),
      ),
    limit,
  );
  const forward = () => controller.abort(signal.reason);
  signal.addEventListener("abort", forward, { once: true });
  void crashed.then((reason) =>
    controller.abort(new SandboxError("ERR_BOOT", `the guest did not boot: ${reason.message}`)),
  );
  try {
    return await GuestAgent.connect(
      { transport, log: init.log, guestLogLevel: init.guestLogLevel, onEvent: init.onEvent },
      controller.signal,
    );
  } catch (error) {
    if (controller.signal.aborted && controller.signal.reason instanceof SandboxError) {
      throw controller.signal.reason;
    }
    if (!(error instanceof SandboxError) || error.code !== "ERR_UNAVAILABLE") throw error;
    // A guest that panics takes its connection along first.
    const cause = await causeOf(error, crashed);
    const message = `the guest did not boot: ${cause.message}`;
    // What tells of a crash has the last words already.
    throw new SandboxError("ERR_BOOT", cause === error ? withLastWords(message, vm) : message, {
      cause: error,
    });
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", forward);
  }
}

async function setUpGuest(
  init: BootInit,
  agent: GuestAgent,
  { network, sharedFs }: LaunchParts,
  sentinel: Promise<Uint8Array>,
  crashed: Promise<SandboxError>,
  signal: AbortSignal,
): Promise<void> {
  const { guest } = init;
  const sentinelContent = await sentinel;
  failPoint("boot.sentinel");
  const created = agent.calls.createSandbox(
    {
      sandboxId: guest.sandboxId,
      hostname: guest.hostname.slice(0, 64),
      sharedTag: sharedFs.sharedTag,
      rootsTag: sharedFs.rootsTag,
      sentinelPath: SENTINEL_NAME,
      sentinelContent,
      shmSizeBytes: BigInt(guest.shmSizeBytes),
      sysctls: guest.sysctls,
      sharePidNamespace: guest.sharePidNamespace,
      network: network.guest(),
    },
    { signal, timeoutMs: timeoutMs("agentCall") },
  );
  if (agent.hello.capabilities.includes(CREATE_AHEAD)) init.onGreeted?.(agent);
  await Promise.race([
    created,
    crashed.then((reason) => {
      throw new SandboxError("ERR_BOOT", `the guest could not be set up: ${describeError(reason)}`);
    }),
  ]);
}
