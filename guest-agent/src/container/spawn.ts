/** Cloning a child with its stdio and a handshake to the agent. */
import * as sys from "sys";
import type { EventLoop } from "../event-loop.ts";
import type { ProcessStdio } from "../stdio/process-stdio.ts";
import type { Cgroup } from "./cgroup.ts";
import { aboveStdio } from "./descriptors.ts";
import { AgentChannel, ChildChannel, openHandshake } from "./handshake.ts";
import type { ChildStdio } from "./process-plan.ts";
import type { SandboxNamespaces } from "./sandbox-namespaces.ts";

export interface SpawnOptions {
  readonly loop: EventLoop;
  readonly cgroup: Cgroup;
  readonly stdio: ProcessStdio;
}

export interface Spawned {
  readonly pid: number;
  /** The caller closes it. */
  readonly channel: AgentChannel;
}

/** What a child begins with: its end of the handshake, its ends of stdio, and the cgroup to start in. */
export interface ChildFds {
  readonly channel: number;
  readonly cgroup: number;
  readonly stdio: ChildStdio;
}

/** Both ends of the pipes of one process; a terminal has none. */
interface Pipes {
  readonly child: ChildStdio;
  readonly agent: ChildStdio;
}

/**
 * Starts a child by `start`, which returns its pid; gives the agent's ends of its pipes to `stdio`.
 * @throws SysError or SandboxError when nothing was started.
 */
export function spawn(options: SpawnOptions, start: (fds: ChildFds) => number): Spawned {
  const opened: number[] = [];
  const track = (fd: number): number => {
    opened.push(fd);
    return fd;
  };
  try {
    const pipes = openPipes(options.stdio, track);
    const [agentEnd, childEnd] = openHandshake();
    track(agentEnd);
    track(childEnd);
    const cgroup = track(options.cgroup.open());
    const pid = start({ channel: childEnd, cgroup, stdio: pipes.child });
    const { stdin, stdout, stderr } = pipes.agent;
    for (const fd of opened.splice(0)) {
      if (fd !== agentEnd && fd !== stdin && fd !== stdout && fd !== stderr) sys.close(fd);
    }
    if (!options.stdio.layout.terminal) provide(options.stdio, pipes.agent);
    return { pid, channel: new AgentChannel(options.loop, agentEnd) };
  } catch (error) {
    for (const fd of opened) sys.close(fd);
    throw error;
  }
}

/**
 * For spawn(): a copy of the agent that runs `main`, which must not return.
 * @param pidNamespace as for SandboxNamespaces.clone.
 */
export function copyOfAgent(
  namespaces: Pick<SandboxNamespaces, "clone">,
  pidNamespace: "new" | number | undefined,
  main: (channel: ChildChannel, stdio: ChildStdio) => never,
): (fds: ChildFds) => number {
  return ({ channel, cgroup, stdio }) => {
    const pid = namespaces.clone(pidNamespace, cgroup);
    if (pid === 0) runChild(() => main(new ChildChannel(channel), stdio));
    return pid;
  };
}

function runChild(main: () => never): never {
  try {
    return main();
  } finally {
    // Whatever happens, a second copy of the agent must not go on serving.
    sys.exit(127);
  }
}

function openPipes({ layout }: ProcessStdio, track: (fd: number) => number): Pipes {
  const none = { stdin: undefined, stdout: undefined, stderr: undefined };
  if (layout.terminal) return { child: none, agent: none };
  const pipe = (): readonly [number, number] => {
    const [readEnd, writeEnd] = sys.pipe2(0);
    return [track(aboveStdio(readEnd)), track(aboveStdio(writeEnd))];
  };
  const [childIn, agentIn] = layout.stdin ? pipe() : [undefined, undefined];
  const [agentOut, childOut] = layout.stdout ? pipe() : [undefined, undefined];
  const [agentErr, childErr] = layout.stderr ? pipe() : [undefined, undefined];
  return {
    child: { stdin: childIn, stdout: childOut, stderr: childErr },
    agent: { stdin: agentIn, stdout: agentOut, stderr: agentErr },
  };
}

function provide(stdio: ProcessStdio, { stdin, stdout, stderr }: ChildStdio): void {
  stdio.provide({
    ...(stdin === undefined ? {} : { stdin }),
    ...(stdout === undefined ? {} : { stdout }),
    ...(stderr === undefined ? {} : { stderr }),
  });
}
