/** What a container's first process does between clone and execve. */
import * as sys from "sys";
import { closeAllBut } from "./descriptors.ts";
import type { ChildChannel } from "./handshake.ts";
import { CLONE_NEWCGROUP, CLONE_NEWNS, PR_SET_DUMPABLE } from "./kernel.ts";
import { ensureDirectory, openInRoot } from "./path-in-root.ts";
import { becomeProcess, type ChildStdio, type ProcessPlan, setOomScore } from "./process-plan.ts";
import { enterRootfs, type PreparedRoot, prepareRootfs, type RootfsPlan, sealRootfs } from "./rootfs.ts";
import { writeSysctls } from "./sysctl.ts";
import { bindConsole, openTerminal, type Terminal } from "./terminal.ts";

export interface InitPlan extends ProcessPlan, RootfsPlan {
  readonly stdio: ChildStdio;
}

/** Runs in the child; never returns. Failures go to the channel. */
export function runInit(plan: InitPlan, channel: ChildChannel): never {
  try {
    isolate(plan, channel.fd);
    const prepared = prepareRootfs(plan);
    const terminal = makeTerminal(plan, prepared);
    makeWorkingDirectory(prepared, plan.process.cwd);
    sealRootfs(prepared, plan.spec);
    enterRootfs(prepared, plan);
    channel.ready(terminal?.master);
    if (terminal !== undefined) sys.close(terminal.master);
    channel.awaitStart();
    return becomeProcess(plan, terminal === undefined ? plan.stdio : { terminal: terminal.slave });
  } catch (error) {
    return channel.fail(error);
  }
}

function isolate(plan: InitPlan, channel: number): void {
  // /proc/N of a process that is not dumpable gives containers of the same pid namespace no way to the agent's files.
  sys.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  const { stdio, spec } = plan;
  closeAllBut([channel, stdio.stdin, stdio.stdout, stdio.stderr].filter((fd) => fd !== undefined));
  sys.umask(0);
  setOomScore(spec.process.oomScoreAdj ?? 0);
  // A cgroup namespace even where the spec has none: hosts with cgroup v1 do not ask for it, and without it the
  // container would see the cgroups of the whole guest. The process was started in its cgroup, which becomes the root.
  sys.unshare(CLONE_NEWNS | CLONE_NEWCGROUP);
  // The host name, System V IPC and message queues are the pod's: see SandboxNamespaces.
  if (spec.hostname !== "") sys.sethostname(spec.hostname);
  if (spec.domainname !== "") sys.setdomainname(spec.domainname);
  writeSysctls(spec.linux.sysctl);
}

function makeTerminal(plan: InitPlan, { root }: PreparedRoot): Terminal | undefined {
  if (!plan.process.terminal) return undefined;
  const terminal = openTerminal((path, flags) => openInRoot(root, path, flags), plan.process.consoleSize);
  bindConsole(root, terminal.slave);
  return terminal;
}

/** A missing working directory is made; when it cannot be, chdir gives the reason at start. */
function makeWorkingDirectory({ root }: PreparedRoot, path: string): void {
  try {
    sys.close(ensureDirectory(root, path));
  } catch {
    // Reported by chdir.
  }
}
