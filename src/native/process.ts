/** Processes that Node did not spawn, and the shim's own process attributes. */
import { errnoOf } from "../base/errors.ts";
import { native } from "./binding.ts";
import { FdWatcher } from "./fd-watcher.ts";

/**
 * A descriptor (CLOEXEC) that stands for this one process, however pids are reused; the caller closes it.
 * @throws an errno error: ESRCH when there is no such process.
 */
export function pidfdOpen(pid: number): number {
  return native().pidfdOpen(pid);
}

/** Sends a signal through a pidfd. @param signal its number; 0 only asks. @returns false when the process is gone. */
export function pidfdSignal(pidfd: number, signal: number): boolean {
  return native().pidfdSignal(pidfd, signal);
}

/** Resolves when the process of a pidfd has ended (a zombie has ended); rejects with the reason when `signal` aborts. */
export function pidfdExited(pidfd: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const watcher = new FdWatcher(pidfd, { readable: () => settle(resolve) });
    const aborted = () => settle(() => reject(signal.reason));
    const settle = (then: () => void) => {
      watcher.close();
      signal.removeEventListener("abort", aborted);
      then();
    };
    signal.addEventListener("abort", aborted, { once: true });
    watcher.watchReadable(true);
  });
}

/**
 * Waits for the end of any process, at most `limitMs`. Resolves in either case, at once when there is none.
 * @param isStillTheSame asked once the process is pinned: false when the pid meanwhile belongs to another one.
 */
export async function waitForProcessExit(
  pid: number,
  limitMs: number,
  isStillTheSame: () => boolean = () => true,
): Promise<void> {
  let pidfd: number;
  try {
    pidfd = pidfdOpen(pid);
  } catch (error) {
    if (errnoOf(error) === "ESRCH") return;
    throw error;
  }
  const limit = new AbortController();
  const timer = setTimeout(() => limit.abort(), limitMs);
  try {
    if (isStillTheSame()) await pidfdExited(pidfd, limit.signal);
  } catch (error) {
    if (!limit.signal.aborted) throw error;
  } finally {
    clearTimeout(timer);
    native().closeFd(pidfd);
  }
}

/** Makes orphaned descendants our children (PR_SET_CHILD_SUBREAPER); reap them with `reapChild`. */
export function setChildSubreaper(on: boolean): void {
  native().setChildSubreaper(on);
}

/** Sets the name that ps shows for this process (its main thread), cut to 15 bytes. */
export function setProcessName(name: string): void {
  native().setProcessName(name);
}

/** Makes this process the leader of a new session. @throws EPERM when it leads a process group already. */
export function startSession(): number {
  return native().setsid();
}

/**
 * Reaps one adopted child that has ended. Never for children that Node spawned.
 * @returns its exit, undefined while it runs. @throws ECHILD when it is not our child.
 */
export function reapChild(pid: number): { readonly code: number } | { readonly signal: number } | undefined {
  return native().reap(pid) ?? undefined;
}
