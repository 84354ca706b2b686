/** Identity of host processes: a pid alone may have been reused, a pid with its start time cannot have been. */
import fs from "node:fs";

interface Stat {
  /** A zombie's first thread has ended. */
  readonly zombie: boolean;
  readonly threads: number;
  readonly startTime: string;
}

/** Fields 3, 20 and 22 of /proc/PID/stat (proc(5)). */
function readStat(pid: number): Stat | undefined {
  let stat: string;
  try {
    stat = fs.readFileSync(`/proc/${pid}/stat`, "latin1");
  } catch {
    return undefined;
  }
  // The command (field 2) is in parentheses and may itself hold spaces and parentheses.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  const [state = ""] = fields;
  return {
    zombie: state === "Z" || state === "X",
    threads: Number(fields[17]),
    startTime: fields[19] ?? "",
  };
}

/**
 * Start time of process `pid` in clock ticks since boot, as text; undefined when there is no such process or it has
 * ended. One that was killed has not, as long as one of its threads is in a system call: what that does is still done.
 */
export function processStartTime(pid: number): string | undefined {
  const stat = readStat(pid);
  return stat === undefined || (stat.zombie && stat.threads <= 1) ? undefined : stat.startTime;
}

/** Whether the process `pid` that began at `startTime` has not ended. */
export function isSameProcess(pid: number, startTime: string): boolean {
  return processStartTime(pid) === startTime;
}

/** The same, but not for one that was killed and only finishes its system calls. */
export function isRunning(pid: number, startTime: string): boolean {
  const stat = readStat(pid);
  return stat !== undefined && !stat.zombie && stat.startTime === startTime;
}

export interface FoundProcess {
  readonly pid: number;
  readonly startTime: string;
}

/** Every process besides this one that `matches` by its command line or pid. Reads all of /proc: some 10 ms. */
export function findProcesses(matches: (words: readonly string[], pid: number) => boolean): FoundProcess[] {
  const found: FoundProcess[] = [];
  for (const entry of fs.readdirSync("/proc")) {
    const pid = Number(entry);
    if (!Number.isInteger(pid) || pid <= 1 || pid === process.pid) continue;
    const startTime = processStartTime(pid);
    if (startTime !== undefined && matches(commandLine(pid), pid)) found.push({ pid, startTime });
  }
  return found;
}

/**
 * Every process that has an end of the unix socket bound at `socket`, besides this one: its listener. Only sockets of
 * our own network namespace are found (/proc/net/unix, proc(5)). Reads the descriptors of every process: some 20 ms.
 */
export function findHolders(socket: string): FoundProcess[] {
  // Num RefCount Protocol Flags Type St Inode Path; the path may hold spaces.
  const lines = fs.readFileSync("/proc/net/unix", "utf8").split("\n");
  const inodes = lines.flatMap((line) => {
    const [, inode, bound] = /^(?:\S+ ){6} *(\d+) (.*)$/.exec(line) ?? [];
    return inode !== undefined && bound === socket ? [`socket:[${inode}]`] : [];
  });
  return inodes.length === 0 ? [] : findProcesses((_words, pid) => hasOpen(pid, inodes));
}

function hasOpen(pid: number, targets: readonly string[]): boolean {
  try {
    return fs.readdirSync(`/proc/${pid}/fd`).some((fd) => targets.includes(linkOf(`/proc/${pid}/fd/${fd}`)));
  } catch {
    return false; // gone meanwhile
  }
}

function linkOf(file: string): string {
  try {
    return fs.readlinkSync(file);
  } catch {
    return ""; // closed meanwhile
  }
}

/** The words of a process's command line; none for a kernel thread and for one that is gone. */
export function commandLine(pid: number): string[] {
  try {
    return fs.readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0").slice(0, -1);
  } catch {
    return [];
  }
}
