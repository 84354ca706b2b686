/** Removing a cgroup of ours, from which the last process may just be leaving. Host only. */
import fs from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { errnoOf } from "./errors.ts";

/** Milliseconds between attempts: version 1 says nothing when a cgroup becomes empty. */
const RETRY_MS = 10;

/**
 * Removes the cgroup `dir`; one that is not there is no error. What still runs in it after `graceMs` gets SIGKILL.
 * @throws after `graceMs` + `limitMs` when it is busy still.
 */
export async function removeCgroup(dir: string, graceMs: number, limitMs: number): Promise<void> {
  const begun = performance.now();
  for (let killed = false; ; ) {
    try {
      fs.rmdirSync(dir);
      return;
    } catch (error) {
      if (errnoOf(error) === "ENOENT") return;
      const waited = performance.now() - begun;
      if (errnoOf(error) !== "EBUSY" || waited > graceMs + limitMs) throw error;
      if (waited > graceMs && !killed) {
        killed = true;
        for (const pid of processesIn(dir)) killQuietly(pid);
      }
    }
    await sleep(RETRY_MS);
  }
}

/** Pids as we see them: 0 for processes of other pid namespaces. */
function processesIn(dir: string): number[] {
  try {
    const pids = fs.readFileSync(`${dir}/cgroup.procs`, "utf8").split("\n").map(Number);
    return pids.filter((pid) => pid > 1 && pid !== process.pid);
  } catch {
    return []; // gone meanwhile
  }
}

function killQuietly(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // gone meanwhile
  }
}
