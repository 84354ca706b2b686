/** What an idle container costs in memory, by component, when it is fresh and when it has worked; beside runc. */
import { setTimeout as sleep } from "node:timers/promises";
import { RUNC_RUNTIME, TestHost } from "../../test/harness/test-host.ts";
import { Collected } from "../collected.ts";
import { memoryOf, sandboxMemory } from "../processes.ts";
import type { Suite } from "../suite.ts";

/** Milliseconds an idle sandbox gets to settle before its memory is read. */
const IDLE_MS = 2_000;
const EXECS = 30;

export const memorySuite: Suite = {
  name: "memory",
  summary: `PSS of an idle sandbox by component, fresh and after ${EXECS} execs, and what its guest uses; beside runc`,
  async run({ runs, progress }) {
    await using host = await TestHost.start();
    const collected = new Collected();
    for (let run = 1; run <= runs; run++) {
      progress(`run ${run} of ${runs}`);
      const id = await host.runDetached(["sleep", "100000"]);
      await sleep(IDLE_MS);
      note(collected, host, "idle");
      for (const [name, kib] of await guestMemory(host, id))
        collected.add(`guest: ${name}`, "MiB", kib / 1024);
      for (let i = 0; i < EXECS; i++) await host.exec(id, ["true"]);
      await sleep(IDLE_MS);
      note(collected, host, `after ${EXECS} execs`);
      await host.remove(id);
      const control = await host.runDetached(["sleep", "100000"], { runtime: RUNC_RUNTIME });
      await sleep(IDLE_MS);
      const runc = memoryOf(host.world, (line) => /containerd-shim-runc|^sleep 100000/.test(line));
      collected.add("runc: shim and process, idle", "MiB", runc);
      await host.remove(control);
    }
    return collected.measurements();
  },
};

function note(collected: Collected, host: TestHost, when: string): void {
  const memory = sandboxMemory(host.world);
  for (const [name, mib] of memory) collected.add(`${name}, ${when}`, "MiB", mib);
  collected.add(
    `sum, ${when}`,
    "MiB",
    [...memory.values()].reduce((sum, mib) => sum + mib, 0),
  );
}

/** KiB by what they are. */
async function guestMemory(host: TestHost, id: string): Promise<[string, number][]> {
  const meminfo = (await host.exec(id, ["cat", "/proc/meminfo"])).stdout;
  const kib = (name: string) => Number(new RegExp(`^${name}: +(\\d+) kB`, "m").exec(meminfo)?.[1]);
  return [
    ["used (total less available)", kib("MemTotal") - kib("MemAvailable")],
    ["total", kib("MemTotal")],
  ];
}
