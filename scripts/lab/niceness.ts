/** Niceness of a whole session. */
import { readFileSync, writeFileSync } from "node:fs";
import { getPriority } from "node:os";

/**
 * Gives the session that process `pid` leads our own niceness; nothing when it leads none. Where the kernel shares out
 * its processors among sessions (sched(7), autogroup), nice(1) counts only within one.
 */
export function niceSession(pid: number): void {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    // Field 6 of proc_pid_stat(5); the command, field 2, is in parentheses.
    const session = Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[3]);
    if (session === pid) writeFileSync(`/proc/${pid}/autogroup`, String(getPriority()));
  } catch {
    // It has ended, or the kernel has no such groups.
  }
}
