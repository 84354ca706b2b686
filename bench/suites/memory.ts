/** What an idle container costs in memory, by component, fresh and after work; beside a bare guest and runc. */
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { built } from "../../test/harness/paths.ts";
import { runOk } from "../../test/harness/run.ts";
import { RUNC_RUNTIME, TestHost } from "../../test/harness/test-host.ts";
import { runBareGuest } from "../bare-guest.ts";
import { Collected } from "../collected.ts";
import { agentRssMiB, guestMemory } from "../guest-memory.ts";
import { isRuncSleeper, memoryOf, type Pss, pssMiB, sandboxMemory, sum } from "../processes.ts";
import { kernelCommand, runningQemu } from "../running-qemu.ts";
import type { Suite } from "../suite.ts";

/** Seconds an idle sandbox gets to settle before its memory is read. */
const IDLE_S = 2;
const EXECS = 30;
const BARE_LIMIT_MS = 120_000;

export const memorySuite: Suite = {
  name: "memory",
  summary: `PSS of an idle sandbox by component, fresh and after ${EXECS} execs, what its guest uses; beside a bare guest and runc`,
  defaultRuns: 3,
  async run({ runs, progress }) {
    await using host = await TestHost.start();
    const collected = new Collected();
    const argv = await kernelCommand(host);
    for (let run = 1; run <= runs; run++) {
      progress(`run ${run} of ${runs}`);
      const id = await host.runDetached(["sleep", "100000"]);
      await sleep(IDLE_S * 1000);
      noteSandbox(collected, host, "idle");
      noteGuest(collected, "guest", (await host.exec(id, ["cat", "/proc/meminfo"])).stdout);
      collected.add("guest: agent RSS", "MiB", await agentRss(host, id));
      for (let i = 0; i < EXECS; i++) await host.exec(id, ["true"]);
      await sleep(IDLE_S * 1000);
      noteSandbox(collected, host, `after ${EXECS} execs`);
      await host.remove(id);
      await measureBareGuest(collected, host, argv);
      const control = await host.runDetached(["sleep", "100000"], { runtime: RUNC_RUNTIME });
      await sleep(IDLE_S * 1000);
      collected.add("runc: shim and process, idle", "MiB", memoryOf(host.world, isRuncSleeper).all);
      await host.remove(control);
    }
    return collected.measurements();
  },
};

function noteSandbox(collected: Collected, host: TestHost, when: string): void {
  const memory = sandboxMemory(host.world);
  for (const [name, { all }] of memory) collected.add(`${name}, ${when}`, "MiB", all);
  const qemu = memory.get("QEMU");
  if (qemu !== undefined) noteQemu(collected, "QEMU", when, qemu);
  collected.add(`all four, ${when}`, "MiB", sum(memory.values()).all);
}

function noteQemu(collected: Collected, name: string, when: string, pss: Pss): void {
  collected.add(`${name}, of it the guest's memory, ${when}`, "MiB", pss.shared);
  collected.add(`${name}, of it its own, ${when}`, "MiB", pss.anonymous);
  collected.add(`${name}, of it pages of files, ${when}`, "MiB", pss.files);
}

function noteGuest(collected: Collected, who: string, meminfo: string): void {
  for (const [name, mib] of guestMemory(meminfo)) collected.add(`${who}: ${name}`, "MiB", mib);
}

async function agentRss(host: TestHost, id: string): Promise<number> {
  const command = [join(built.bin, "shim"), "stats", "--once", "--json", id];
  return agentRssMiB((await runOk(host.world.enter(command))).stdout);
}

/** The floor: the same QEMU and kernel, a busybox that sleeps. */
async function measureBareGuest(collected: Collected, host: TestHost, sandbox: readonly string[]) {
  const script = `cat /proc/meminfo; sleep ${IDLE_S}; echo idle; sleep 2`;
  let pss: Pss | undefined;
  const output = await runBareGuest({
    world: host.world,
    sandbox,
    devices: [],
    modules: [],
    programs: {},
    script,
    timeoutMs: BARE_LIMIT_MS,
    onOutput: (text) => {
      if (/^idle\s*$/m.test(text)) pss ??= pssMiB(runningQemu(host.world).pid);
    },
  });
  if (pss === undefined) throw new Error(`the bare guest did not become idle; it printed:\n${output}`);
  collected.add("bare guest: QEMU, idle", "MiB", pss.all);
  noteQemu(collected, "bare guest: QEMU", "idle", pss);
  noteGuest(collected, "bare guest", output);
}
