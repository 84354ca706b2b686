/** As many idle sandboxes as fit: what each costs by component, and how long the nth takes to start; beside runc. */
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { CAISSON_RUNTIME, RUNC_RUNTIME, TestHost } from "../../test/harness/test-host.ts";
import { Collected } from "../collected.ts";
import { meminfoMiB } from "../guest-memory.ts";
import { isRuncSleeper, memoryOf, type Pss, sandboxMemory, sum } from "../processes.ts";
import type { Suite } from "../suite.ts";

/** What the sandboxes may use together. */
const BUDGET_MIB = 8 << 10;
/** What the host keeps available: no further one is started below it. */
const RESERVE_MIB = 1 << 10;
const IDLE_MS = 3_000;
/** Numbers of sandboxes at which the memory is read: reading it takes a while. */
const isMark = (count: number): boolean => count <= 2 || count % 5 === 0;

export const densitySuite: Suite = {
  name: "density",
  summary:
    "idle sandboxes until 8 GiB are used, 1 GiB is left of the host's memory, or --max N run: memory of each by component, start of the nth; beside runc",
  defaultRuns: 1,
  async run({ max = Number.POSITIVE_INFINITY, progress }) {
    const collected = new Collected();
    const count = await fill(collected, max, progress);
    await using host = await TestHost.start();
    progress(`${count} containers of runc`);
    for (let i = 1; i <= count; i++) noteStart(collected, "runc", i, await timedStart(host, RUNC_RUNTIME));
    await sleep(IDLE_MS);
    const runc = memoryOf(host.world, isRuncSleeper);
    collected.add("runc: shim and process, each", "MiB", runc.all / count);
    return collected.measurements();
  },
};

/** Starts sandboxes of ours until no more fit. @returns how many there are */
async function fill(collected: Collected, max: number, progress: (text: string) => void): Promise<number> {
  await using host = await TestHost.start();
  let count = 0;
  for (let used = 0; count < max && used < BUDGET_MIB && hasRoom(hostMeminfo(), progress); ) {
    count += 1;
    const started = await timedStart(host, CAISSON_RUNTIME);
    noteStart(collected, "caisson", count, started);
    if (!isMark(count) && count < max) continue;
    used = sum(sandboxMemory(host.world).values()).all;
    progress(`${count} sandboxes, ${Math.round(used)} MiB, the last started in ${Math.round(started)} ms`);
  }
  if (count === 0) throw new Error("no sandbox fits into the host's memory");
  await sleep(IDLE_MS);
  note(collected, sandboxMemory(host.world), count);
  return count;
}

const hostMeminfo = (): string => readFileSync("/proc/meminfo", "utf8");

/** Whether the host has memory for one more sandbox; says so where it has none. @param meminfo its /proc/meminfo */
export function hasRoom(meminfo: string, progress: (text: string) => void): boolean {
  const available = Math.round(meminfoMiB(meminfo, "MemAvailable"));
  if (available >= RESERVE_MIB) return true;
  progress(
    `no more: ${available} MiB of the host's memory are available, and ${RESERVE_MIB} MiB are left to it`,
  );
  return false;
}

function note(collected: Collected, memory: ReadonlyMap<string, Pss>, count: number): void {
  collected.add("sandboxes", "count", count);
  for (const [name, { all }] of memory) collected.add(`${name}, each`, "MiB", all / count);
  const { all, anonymous, shared, files } = sum(memory.values());
  collected.add("all four, each", "MiB", all / count);
  collected.add("of it the guest's memory, each", "MiB", shared / count);
  collected.add("of it the processes' own, each", "MiB", anonymous / count);
  collected.add("of it pages of files, each", "MiB", files / count);
}

async function timedStart(host: TestHost, runtime: string): Promise<number> {
  const begun = performance.now();
  await host.runDetached(["sleep", "100000"], { runtime });
  return performance.now() - begun;
}

/** The nth by tens, so that it shows whether later ones are slower. */
function noteStart(collected: Collected, name: string, count: number, ms: number): void {
  const from = Math.floor((count - 1) / 10) * 10 + 1;
  collected.add(`start of number ${from} to ${from + 9}, ${name}`, "ms", ms);
}
