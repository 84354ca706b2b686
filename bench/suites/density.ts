/** As many idle sandboxes as fit: what each costs by component, and how long the nth takes to start; beside runc. */
import { setTimeout as sleep } from "node:timers/promises";
import { CAISSON_RUNTIME, RUNC_RUNTIME, TestHost } from "../../test/harness/test-host.ts";
import { Collected } from "../collected.ts";
import { memoryOf, sandboxMemory } from "../processes.ts";
import type { Suite } from "../suite.ts";

/** What the sandboxes may use together. */
const BUDGET_MIB = 8 << 10;
const IDLE_MS = 3_000;
/** Numbers of sandboxes at which the memory is read: reading it takes a while. */
const isMark = (count: number): boolean => count <= 2 || count % 5 === 0;

export const densitySuite: Suite = {
  name: "density",
  summary:
    "idle sandboxes until 8 GiB are used (or --max N): memory of each by component, start of the nth; beside runc",
  async run({ max = Number.POSITIVE_INFINITY, progress }) {
    const collected = new Collected();
    let count = 0;
    {
      await using host = await TestHost.start();
      for (let used = 0; count < max && used < BUDGET_MIB; ) {
        count += 1;
        const started = await timedStart(host, CAISSON_RUNTIME);
        noteStart(collected, "caisson", count, started);
        if (!isMark(count) && count < max) continue;
        used = sum(sandboxMemory(host.world));
        progress(
          `${count} sandboxes, ${Math.round(used)} MiB, the last started in ${Math.round(started)} ms`,
        );
      }
      await sleep(IDLE_MS);
      const memory = sandboxMemory(host.world);
      collected.add("sandboxes", "count", count);
      for (const [name, mib] of memory) collected.add(`${name}, each`, "MiB", mib / count);
      collected.add("sum, each", "MiB", sum(memory) / count);
    }
    await using host = await TestHost.start();
    for (let i = 1; i <= count; i++) noteStart(collected, "runc", i, await timedStart(host, RUNC_RUNTIME));
    await sleep(IDLE_MS);
    const runc = memoryOf(host.world, (line) => /containerd-shim-runc|^sleep 100000/.test(line));
    collected.add("runc: shim and process, each", "MiB", runc / count);
    return collected.measurements();
  },
};

const sum = (memory: ReadonlyMap<string, number>): number =>
  [...memory.values()].reduce((total, mib) => total + mib, 0);

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
