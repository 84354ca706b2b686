/** Bringing the processes of a container to life: clone, handshake, terminal. */
import * as sys from "sys";
import { SandboxError } from "../../../src/base/errors.ts";
import type { EventLoop } from "../event-loop.ts";
import { SIGKILL, sysCode } from "../linux.ts";
import type { Home } from "./become-process.ts";
import type { Cgroup } from "./cgroup.ts";
import { type ExecPlan, runExec } from "./exec-process.ts";
import type { AgentChannel, Message } from "./handshake.ts";
import { type InitPlan, runInit } from "./init-process.ts";
import type { ManagedProcess } from "./managed-process.ts";
import type { ContainerSpec, ProcessSpec } from "./oci-spec.ts";
import type { SandboxNamespaces } from "./sandbox-namespaces.ts";
import type { SeccompProgram } from "./seccomp.ts";
import { spawn } from "./spawn.ts";

/** The agent's own, a new one, the pod's, or that of the process with this pid. */
export type PidNamespace = "agent" | "new" | "pod" | number;

/** What all processes of a container are made of. */
export interface LaunchContext {
  readonly loop: EventLoop;
  readonly namespaces: SandboxNamespaces;
  readonly pidNamespace: PidNamespace;
  readonly cgroup: Cgroup;
  readonly spec: ContainerSpec;
  readonly seccomp: SeccompProgram | undefined;
  readonly sharedPath: string;
  readonly forceMove: boolean;
  /** By user id: what execs have found. */
  readonly homes: Map<number, Home>;
  /** Registers a child for the reaper. */
  readonly track: (pid: number, process: ManagedProcess) => void;
}

/**
 * Starts the first process; resolves when it has set everything up and waits.
 * @param own given the channel at once: closing it ends the waiting process.
 * @param limitMs for its set-up: some hundred system calls, on a machine that may be very busy.
 * @throws the reason of a failed set-up; the process is then ending.
 */
export async function launchInit(
  context: LaunchContext,
  process: ManagedProcess,
  rootfsPath: string,
  own: (channel: AgentChannel) => void,
  limitMs: number,
): Promise<void> {
  const { spec, seccomp, sharedPath, forceMove } = context;
  const plan: Omit<InitPlan, "stdio"> = {
    spec,
    process: spec.process,
    personality: spec.linux.personality,
    seccomp,
    rootfsPath,
    sharedPath,
    forceMove,
  };
  const { pid, channel } = spawnInit(context, process, plan);
  own(channel);
  process.cloned(pid);
  context.track(pid, process);
  accept(await channel.next(limitMs, `the set-up of ${process.name}`), process, "set-up");
}

function spawnInit(context: LaunchContext, process: ManagedProcess, plan: Omit<InitPlan, "stdio">) {
  const { loop, namespaces, pidNamespace, cgroup } = context;
  const joined = typeof pidNamespace === "number" ? sys.pidfdOpen(pidNamespace) : undefined;
  const own = pidNamespace === "agent" ? undefined : "new";
  const chosen = joined ?? (pidNamespace === "pod" ? namespaces.sharedPid : own);
  try {
    return spawn({ loop, namespaces, pidNamespace: chosen, cgroup, stdio: process.stdio }, (child, stdio) =>
      runInit({ ...plan, stdio }, child),
    );
  } finally {
    if (joined !== undefined) sys.close(joined);
  }
}

/** Lets the first process execute its program, within `limitMs`. @throws the reason why it could not */
export async function executeInit(
  channel: AgentChannel,
  process: ManagedProcess,
  limitMs: number,
): Promise<void> {
  channel.start();
  const message = await channel.next(limitMs, `the start of ${process.name}`);
  if (message.type === "failed") throw message.error;
}

/** Starts a further process; resolves when it executes its program, within `limitMs`. @throws the reason why it could not */
export async function launchExec(
  context: LaunchContext,
  process: ManagedProcess,
  spec: ProcessSpec,
  initPid: number,
  limitMs: number,
): Promise<void> {
  const { pid, channel } = spawnExec(context, process, spec, initPid);
  process.cloned(pid);
  context.track(pid, process);
  try {
    await awaitExec(channel, process, limitMs, (home) => context.homes.set(spec.user.uid, home));
  } catch (error) {
    if (error instanceof SandboxError && error.code === "ERR_DEADLINE") killIfAlive(pid);
    throw error;
  } finally {
    channel.close();
  }
}

function spawnExec(context: LaunchContext, process: ManagedProcess, spec: ProcessSpec, initPid: number) {
  const { loop, namespaces, cgroup, spec: container, seccomp } = context;
  const { size } = process;
  const consoleSize = size === undefined ? spec.consoleSize : { height: size.rows, width: size.columns };
  const target = sys.pidfdOpen(initPid);
  const plan: Omit<ExecPlan, "stdio"> = {
    process: { ...spec, consoleSize },
    personality: container.linux.personality,
    seccomp,
    container: target,
    home: context.homes.get(spec.user.uid),
    oomScoreAdj: spec.oomScoreAdj ?? container.process.oomScoreAdj ?? 0,
  };
  try {
    const pidNamespace = context.pidNamespace === "agent" ? undefined : target;
    return spawn({ loop, namespaces, pidNamespace, cgroup, stdio: process.stdio }, (child, stdio) =>
      runExec({ ...plan, stdio }, child),
    );
  } finally {
    sys.close(target);
  }
}

async function awaitExec(
  channel: AgentChannel,
  process: ManagedProcess,
  limitMs: number,
  foundHome: (home: Home) => void,
): Promise<void> {
  const deadline = performance.now() + limitMs;
  for (;;) {
    const leftMs = Math.max(1, deadline - performance.now());
    const message = await channel.next(leftMs, `the start of ${process.name}`);
    if (message.type === "closed") return;
    if (message.type === "home") foundHome(message.home);
    else accept(message, process, "start");
  }
}

/** Takes the pty master out of a "ready". @throws the failure */
function accept(message: Message, process: ManagedProcess, step: string): void {
  if (message.type === "failed") throw message.error;
  if (message.type === "closed") {
    throw new SandboxError("ERR_START_PROCESS", `${process.name}: its process died during the ${step}`);
  }
  if (message.type === "home" || message.terminal === undefined) return;
  process.stdio.provide({ terminal: message.terminal });
  const { size } = process;
  if (size !== undefined) sys.setWindowSize(message.terminal, size.columns, size.rows);
}

function killIfAlive(pid: number): void {
  try {
    sys.kill(pid, SIGKILL);
  } catch (error) {
    if (sysCode(error) !== "ESRCH") throw error;
  }
}
