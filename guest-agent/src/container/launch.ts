/** Bringing the processes of a container to life: clone, handshake, terminal. */
import * as sys from "sys";
import { SandboxError } from "../../../src/base/errors.ts";
import type { EventLoop } from "../event-loop.ts";
import { SIGKILL, sysCode } from "../linux.ts";
import type { Cgroup } from "./cgroup.ts";
import type { AgentChannel, Message } from "./handshake.ts";
import { type InitPlan, runInit } from "./init-process.ts";
import type { ManagedProcess } from "./managed-process.ts";
import type { ContainerSpec, ProcessSpec } from "./oci-spec.ts";
import { type Home, nativePlan, type ProcessPlan, stopped } from "./process-plan.ts";
import { notRunning, type SandboxNamespaces } from "./sandbox-namespaces.ts";
import type { SeccompProgram } from "./seccomp.ts";
import { type ChildFds, copyOfAgent, spawn } from "./spawn.ts";

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
    return spawn(
      { loop, cgroup, stdio: process.stdio },
      copyOfAgent(namespaces, chosen, (child, stdio) => runInit({ ...plan, stdio }, child)),
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
  const plan = execPlan(context, process, spec);
  const { pid, channel } = spawnExec(context, process, plan, initPid);
  process.cloned(pid);
  context.track(pid, process);
  try {
    await awaitExec(channel, process, plan, limitMs, (home) => context.homes.set(spec.user.uid, home));
  } catch (error) {
    if (error instanceof SandboxError && error.code === "ERR_DEADLINE") killIfAlive(pid);
    throw error;
  } finally {
    channel.close();
  }
}

function execPlan(context: LaunchContext, process: ManagedProcess, spec: ProcessSpec): ProcessPlan {
  const { spec: container, seccomp, homes } = context;
  const { size } = process;
  const consoleSize = size === undefined ? spec.consoleSize : { height: size.rows, width: size.columns };
  return {
    process: { ...spec, consoleSize },
    personality: container.linux.personality,
    seccomp,
    home: homes.get(spec.user.uid),
    oomScoreAdj: spec.oomScoreAdj ?? container.process.oomScoreAdj ?? 0,
  };
}

function spawnExec(context: LaunchContext, process: ManagedProcess, plan: ProcessPlan, initPid: number) {
  const { loop, cgroup } = context;
  const joinsPid = context.pidNamespace !== "agent";
  const native = nativePlan(plan);
  const container = sys.pidfdOpen(initPid);
  const start = ({ channel, cgroup: into, stdio }: ChildFds) => {
    const { stdin = -1, stdout = -1, stderr = -1 } = stdio;
    try {
      return sys.spawnProcess(native, joinsPid, channel, container, into, stdin, stdout, stderr);
    } catch (error) {
      throw joinsPid && (error as sys.SysError).syscall !== "spawner" ? notRunning(error) : error;
    }
  };
  try {
    return spawn({ loop, cgroup, stdio: process.stdio }, start);
  } finally {
    sys.close(container);
  }
}

async function awaitExec(
  channel: AgentChannel,
  process: ManagedProcess,
  plan: ProcessPlan,
  limitMs: number,
  foundHome: (home: Home) => void,
): Promise<void> {
  const deadline = performance.now() + limitMs;
  for (;;) {
    const leftMs = Math.max(1, deadline - performance.now());
    const message = await channel.next(leftMs, `the start of ${process.name}`);
    if (message.type === "closed") return;
    if (message.type === "stopped") throw stopped(plan, message.stop);
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
  if (message.type !== "ready" || message.terminal === undefined) return;
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
