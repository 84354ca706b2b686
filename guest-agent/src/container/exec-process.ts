/** What a further process of a running container does between clone and execve. */
import * as sys from "sys";
import {
  becomeProcess,
  type ChildStdio,
  type Home,
  openHere,
  type ProcessPlan,
  setOomScore,
} from "./become-process.ts";
import { closeAllBut } from "./descriptors.ts";
import type { ChildChannel } from "./handshake.ts";
import { CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNS, CLONE_NEWUTS, PR_SET_DUMPABLE } from "./kernel.ts";
import { openTerminal } from "./terminal.ts";

export interface ExecPlan extends ProcessPlan {
  /** pidfd of the container's first process. The pid namespace was already entered by the clone. */
  readonly container: number;
  /** Of the process's own spec, else the container's. */
  readonly oomScoreAdj: number;
  readonly stdio: ChildStdio;
}

/** Runs in the child; never returns. Failures go to the channel. */
export function runExec(plan: ExecPlan, channel: ChildChannel): never {
  try {
    sys.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    const { stdio, container } = plan;
    closeAllBut(
      [channel.fd, container, stdio.stdin, stdio.stdout, stdio.stderr].filter((fd) => fd !== undefined),
    );
    sys.umask(0);
    setOomScore(plan.oomScoreAdj);
    sys.setns(container, CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP);
    sys.close(container);
    const foundHome = (home: Home) => channel.foundHome(home);
    if (!plan.process.terminal) return becomeProcess({ ...plan, foundHome }, stdio);
    const terminal = openTerminal(openHere, plan.process.consoleSize);
    channel.ready(terminal.master);
    sys.close(terminal.master);
    return becomeProcess({ ...plan, foundHome }, { terminal: terminal.slave });
  } catch (error) {
    return channel.fail(error);
  }
}
