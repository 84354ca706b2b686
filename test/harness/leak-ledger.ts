/**
 * The leak ledger: what a world holds before and after a test. Whatever is there afterwards and was not before was
 * leaked; teardown that goes on after the last answer gets a bounded time to finish.
 */

import { readdirSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { scaledMs } from "../../src/base/timeouts.ts";
import { cgroupsOf, type World } from "./world.ts";

/** Kind of thing → what there is of it. */
export type LedgerSnapshot = ReadonlyMap<string, ReadonlySet<string>>;

/** Directories whose content counts, apart from the directories listed here themselves. */
const RUN_DIRECTORIES = ["/run/caisson", "/run/containerd/s", "/run/containerd/fifo", "/run/netns"];
/** How long things may take to go after the last call of a test has returned. */
const SETTLE_LIMIT_MS = scaledMs(5_000);

/** What the world holds now. `extraDirectories`: further paths of the world whose content counts (bundles). */
export function takeSnapshot(world: World, extraDirectories: readonly string[] = []): LedgerSnapshot {
  const directories = [...RUN_DIRECTORIES, ...extraDirectories];
  return new Map<string, Set<string>>([
    ["process", new Set(world.processes().map((p) => `${p.pid} ${p.commandLine}`))],
    ["mount", new Set(mountPoints(world))],
    ["network device", new Set(networkDevices(world))],
    [
      "file",
      new Set(directories.flatMap((path) => filesBelow(world.outside(path)).map((name) => join(path, name)))),
    ],
    // That of the namespace itself is shared by its containers, and nobody's to remove.
    ["cgroup", new Set(cgroupsOf(world.name).filter((path) => !path.endsWith(`/${world.name}`)))],
  ]);
}

/** What `after` has beyond `before`, one line each. */
export function leaksBetween(before: LedgerSnapshot, after: LedgerSnapshot): string[] {
  const lines: string[] = [];
  for (const [kind, items] of after) {
    for (const item of items) {
      if (before.get(kind)?.has(item) !== true) lines.push(`${kind}: ${item}`);
    }
  }
  return lines;
}

/** Of `leaks`, those that carry the world's name: on the host itself others come and go too. */
export function ownLeaks(world: World, leaks: readonly string[]): string[] {
  return leaks.filter((line) => line.startsWith("process: ") || line.includes(world.name));
}

/** Waits until nothing is there that was not in `before`. @throws with a line per leak when that takes over `settleMs`. */
export async function assertEven(
  world: World,
  before: LedgerSnapshot,
  extraDirectories: readonly string[] = [],
  settleMs: number = SETTLE_LIMIT_MS,
): Promise<void> {
  const deadline = performance.now() + settleMs;
  for (;;) {
    const leaks = leaksBetween(before, takeSnapshot(world, extraDirectories));
    if (leaks.length === 0) return;
    if (performance.now() > deadline)
      throw new Error(`the leak ledger is not even:\n  ${leaks.join("\n  ")}`);
    await sleep(50);
  }
}

/** What the open descriptors of a process point to, with sockets, pipes and the like reduced to their kind, sorted. */
export function openDescriptors(pid: number): string[] {
  const links: string[] = [];
  for (const fd of readdirSync(`/proc/${pid}/fd`)) {
    try {
      links.push(readlinkSync(`/proc/${pid}/fd/${fd}`).replace(/:\[\d+\]$/, ""));
    } catch {
      // Closed while we looked.
    }
  }
  return links.sort();
}

/** "mount point (type)" per mount, in the order of the kernel's table; a place mounted twice shows twice. */
function mountPoints(world: World): string[] {
  const seen = new Map<string, number>();
  return world
    .procFile("mountinfo")
    .trimEnd()
    .split("\n")
    .map((line) => {
      const fields = line.split(" ");
      const name = `${fields[4]} (${fields[fields.indexOf("-") + 1]})`;
      const count = (seen.get(name) ?? 0) + 1;
      seen.set(name, count);
      return count === 1 ? name : `${name} #${count}`;
    });
}

function networkDevices(world: World): string[] {
  // Two header lines, then "name: counters".
  const lines = world.procFile("net/dev").trimEnd().split("\n").slice(2);
  return lines.map((line) => line.slice(0, line.indexOf(":")).trim());
}

function filesBelow(dir: string): string[] {
  try {
    return readdirSync(dir, { recursive: true }).map(String);
  } catch {
    return [];
  }
}
