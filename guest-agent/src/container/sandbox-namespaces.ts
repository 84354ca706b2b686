/**
 * Namespaces that the containers of a sandbox share. The agent itself moves into a new ipc and uts namespace when it
 * starts: containers inherit them by being its children, and the host name and the sysctls that CreateSandbox sets
 * are the pod's. A shared pid namespace needs a first process, the holder.
 */
import * as sys from "sys";
import { SandboxError } from "../../../src/base/errors.ts";
import { AT_FDCWD, O_RDONLY, SIGKILL } from "../linux.ts";
import { closeAllBut } from "./descriptors.ts";
import { CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWUTS, PR_SET_DUMPABLE } from "./kernel.ts";

/** Name of the holder in `ps`, as Kubernetes users know the process that has this task. */
const HOLDER_NAME = "pause";

/** The pid namespace has lost its first process. */
export const notRunning = (cause: unknown): SandboxError =>
  new SandboxError("ERR_STATE", "the container is not running", { cause });

export class SandboxNamespaces {
  /** The agent's own pid namespace, to come back to. */
  readonly #ownPid = sys.openat(AT_FDCWD, "/proc/self/ns/pid", O_RDONLY, 0);
  #holder: { readonly pid: number; readonly pidfd: number } | undefined;

  /** Moves the agent into the sandbox's ipc and uts namespaces. */
  constructor() {
    sys.unshare(CLONE_NEWIPC | CLONE_NEWUTS);
  }

  /** Makes the pid namespace that all containers join. */
  sharePid(): void {
    const pid = sys.clone(CLONE_NEWPID, -1);
    if (pid === 0) hold();
    this.#holder = { pid, pidfd: sys.pidfdOpen(pid) };
  }

  get sharedPid(): number | undefined {
    return this.#holder?.pidfd;
  }

  /**
   * Clones the agent; returns 0 in the child.
   * @param pidNamespace "new", or the pidfd of a process whose namespace the child joins; undefined: the agent's own.
   * @throws ERR_STATE when the namespace has lost its first process.
   */
  clone(pidNamespace: "new" | number | undefined, cgroup: number): number {
    if (typeof pidNamespace !== "number") return sys.clone(pidNamespace === "new" ? CLONE_NEWPID : 0, cgroup);
    let pid = -1;
    try {
      sys.setns(pidNamespace, CLONE_NEWPID);
      pid = sys.clone(0, cgroup);
    } catch (error) {
      throw notRunning(error);
    } finally {
      // The child stays: its own children belong where it is.
      if (pid !== 0) sys.setns(this.#ownPid, CLONE_NEWPID);
    }
    return pid;
  }

  /** Ends the holder and with it whatever is left in the shared pid namespace. Idempotent. */
  dispose(): void {
    if (this.#holder === undefined) return;
    sys.kill(this.#holder.pid, SIGKILL);
    sys.close(this.#holder.pidfd);
    this.#holder = undefined;
  }
}

function hold(): never {
  try {
    sys.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    closeAllBut([]);
    return sys.holdPidNamespace(HOLDER_NAME);
  } finally {
    sys.exit(1);
  }
}
