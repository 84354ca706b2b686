/** What a process of the debug console does between clone and execve; and the plan for it. */
import * as sys from "sys";
import { capabilityNames } from "../container/capability-sets.ts";
import { closeAllBut } from "../container/descriptors.ts";
import type { ChildChannel } from "../container/handshake.ts";
import {
  CLONE_NEWCGROUP,
  CLONE_NEWIPC,
  CLONE_NEWNS,
  CLONE_NEWUTS,
  PR_SET_DUMPABLE,
} from "../container/kernel.ts";
import type { ProcessSpec } from "../container/oci-spec.ts";
import { becomeProcess, type ChildStdio, setOomScore } from "../container/process-plan.ts";
import { openTerminal, type Terminal } from "../container/terminal.ts";
import { AT_FDCWD } from "../linux.ts";

export interface ConsolePlan {
  readonly process: ProcessSpec;
  /** pidfd of a container's first process, whose namespaces are entered; its pid namespace was by the clone. */
  readonly container: number | undefined;
  /** The program for commands that are not found. */
  readonly tools: number | undefined;
}

/** A process of root with every capability that the agent has, outside any seccomp filter. */
export function consoleProcess(init: {
  readonly args: readonly string[];
  readonly env: readonly string[];
  readonly cwd: string;
  readonly terminal: boolean;
  readonly columns: number;
  readonly rows: number;
}): ProcessSpec {
  const { args, env, cwd, terminal, columns, rows } = init;
  const [, permitted] = sys.capget();
  const all = capabilityNames(permitted);
  return {
    terminal,
    consoleSize: { height: rows, width: columns },
    user: { uid: 0, gid: 0, umask: undefined, additionalGids: [] },
    args,
    env,
    cwd,
    capabilities: { bounding: all, effective: all, permitted: all, inheritable: [], ambient: [] },
    rlimits: [],
    noNewPrivileges: false,
    oomScoreAdj: 0,
    scheduler: undefined,
    ioPriority: undefined,
    apparmorProfile: "",
    selinuxLabel: "",
  };
}

/** Runs in the child; never returns. Failures go to the channel. */
export function runConsole(plan: ConsolePlan, channel: ChildChannel, stdio: ChildStdio): never {
  try {
    sys.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    const { container, tools, process } = plan;
    const kept = [channel.fd, container, tools, stdio.stdin, stdio.stdout, stdio.stderr];
    closeAllBut(kept.filter((fd) => fd !== undefined));
    sys.umask(0);
    setOomScore(0);
    // Before the guest's own devpts is out of sight: a container may have none.
    const terminal = process.terminal ? openTerminal(openHere, process.consoleSize) : undefined;
    if (container !== undefined) {
      sys.setns(container, CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP);
      sys.close(container);
    }
    const identity = { process, personality: undefined, seccomp: undefined };
    if (terminal === undefined) return becomeProcess(identity, stdio, tools);
    const { master, slave } = container === undefined ? terminal : ownTerminal(terminal, process);
    channel.ready(master);
    sys.close(master);
    return becomeProcess(identity, { terminal: slave }, tools);
  } catch (error) {
    return channel.fail(error);
  }
}

/** Opens a path of the namespaces that the process is in. */
const openHere = (path: string, flags: number): number => sys.openat(AT_FDCWD, path, flags, 0);

/** A terminal of the container's devpts, so that it has a name there; `other` where there is none. */
function ownTerminal(other: Terminal, process: ProcessSpec): Terminal {
  let own: Terminal;
  try {
    own = openTerminal(openHere, process.consoleSize);
  } catch {
    return other;
  }
  sys.close(other.master);
  sys.close(other.slave);
  return own;
}
