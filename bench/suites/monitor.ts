/**
 * A scrape of 50 sandboxes. Real ones as long as the machine starts them in time; the others are stand-ins: a process
 * each, with the shim's own control service on its own socket and a journal, and a guest that is made up.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { build } from "esbuild";
import { processUsage } from "../../src/operator/processes.ts";
import { built, repositoryRoot } from "../../test/harness/paths.ts";
import { runOk } from "../../test/harness/run.ts";
import { TestHost } from "../../test/harness/test-host.ts";
import type { Measurement, Suite } from "../suite.ts";

const SANDBOXES = 50;
/** Milliseconds in which real sandboxes are started. */
const STARTING_MS = 120_000;
/** Scrapes per run, and milliseconds between two: in quick succession, and as Prometheus does it. */
const RHYTHMS = [
  { count: 40, betweenMs: 1_000 },
  { count: 5, betweenMs: 15_000 },
] as const;
/** Milliseconds for what the processes take when nobody looks. */
const IDLE_MS = 10_000;

export const monitorSuite: Suite = {
  name: "monitor",
  summary: "a scrape of 50 sandboxes",
  async run({ runs, progress }) {
    await using host = await TestHost.start();
    const ids: string[] = [];
    const children: ChildProcess[] = [];
    try {
      const startedAt = performance.now();
      while (ids.length < SANDBOXES && performance.now() - startedAt < STARTING_MS) {
        ids.push(await host.runDetached(["sleep", "100000"]));
        progress(`${ids.length} virtual machines`);
      }
      const script = await bundleStandIn(host.world.dir);
      for (let i = ids.length; i < SANDBOXES; i++)
        children.push(await inWorld(host, [script, `stand-in-${i}`]));
      progress(`${ids.length} virtual machines and ${SANDBOXES - ids.length} stand-ins`);
      await sleep(IDLE_MS / 2);
      const before = cpuSeconds(host);
      await sleep(IDLE_MS);
      const idle = rates(before, cpuSeconds(host), IDLE_MS);
      const shim = join(built.bin, "shim");
      const monitor = await inWorld(host, [shim, "monitor", "--listen", "127.0.0.1:0"]);
      children.push(monitor);
      const url = monitor.firstLine.split(" ", 1)[0] ?? "";
      const results: Measurement[] = [];
      for (const { count, betweenMs } of RHYTHMS)
        results.push(...(await scrapes(host, url, runs * count, betweenMs)));
      for (const name of ["shims", "QEMU"] as const)
        results.push({
          name: `CPU time per second without the monitor: ${name}`,
          unit: "ms",
          values: [idle[name]],
        });
      return results;
    } finally {
      for (const child of children) child.kill();
      for (const id of ids) await host.remove(id);
    }
  },
};

/** Scrapes after one for warming up, and what the processes take meanwhile. */
async function scrapes(
  host: TestHost,
  url: string,
  count: number,
  betweenMs: number,
): Promise<Measurement[]> {
  const script = `(async () => {
    const all = [];
    for (let i = 0; i <= ${count}; i++) {
      const startedAt = performance.now();
      const text = await (await fetch("${url}metrics")).text();
      const ms = performance.now() - startedAt;
      const values = (name) => text.split("\\n").filter((line) => line.startsWith(name + "{"))
        .map((line) => Number(line.slice(line.lastIndexOf(" "))));
      const ones = (name) => values(name).filter((value) => value === 1).length;
      const ages = values("caisson_sandbox_age_seconds");
      const guestAges = values("caisson_guest_age_seconds");
      if (i > 0)
        all.push([ms, ones("caisson_sandbox_up"), ones("caisson_guest_up"), ages.length, guestAges.length,
          Math.max(...ages), Math.max(...guestAges), text.length]);
      await new Promise((resolve) => setTimeout(resolve, ${betweenMs}));
    }
    console.log(JSON.stringify(all));
  })()`;
  const startedAt = performance.now();
  const before = cpuSeconds(host);
  const { stdout } = await runOk(host.world.enter([process.execPath, "-e", script]), { timeoutMs: 600_000 });
  const during = rates(before, cpuSeconds(host), performance.now() - startedAt);
  const all = JSON.parse(stdout) as number[][];
  const rhythm = `, every ${betweenMs / 1000} s`;
  const column = (name: string, unit: Measurement["unit"], at: number): Measurement => ({
    name: name + rhythm,
    unit,
    values: all.map((row) => row[at] ?? Number.NaN),
  });
  return [
    column("scrape", "ms", 0),
    column("age of the oldest figures of a shim", "s", 5),
    column("age of the oldest figures of a guest", "s", 6),
    column("shims that answered when last asked", "count", 1),
    column("guests that answered when last asked", "count", 2),
    column("shims with figures", "count", 3),
    column("guests with figures", "count", 4),
    column("size of the response", "bytes", 7),
    ...(["monitor", "shims", "QEMU"] as const).map(
      (name): Measurement => ({
        name: `CPU time per second: ${name}${rhythm}`,
        unit: "ms",
        values: [during[name]],
      }),
    ),
  ];
}

/** By component; seconds used so far, or milliseconds per second. */
type Load = Readonly<Record<"monitor" | "shims" | "QEMU", number>>;

function cpuSeconds({ world }: TestHost): Load {
  const total = (matches: (commandLine: string) => boolean) =>
    world
      .processes()
      .filter(({ commandLine }) => matches(commandLine))
      .reduce((seconds, { pid }) => seconds + (processUsage(pid)?.cpuSeconds ?? 0), 0);
  return {
    monitor: total((line) => /shim monitor|shim\.cjs monitor/.test(line)),
    shims: total((line) => line.startsWith("caisson-shim")),
    QEMU: total((line) => line.includes("qemu-system")),
  };
}

function rates(before: Load, after: Load, ms: number): Load {
  const of = (name: keyof Load) => ((after[name] - before[name]) * 1e6) / ms;
  return { monitor: of("monitor"), shims: of("shims"), QEMU: of("QEMU") };
}

/** A Node program in the world, once it has printed a line. */
async function inWorld(
  host: TestHost,
  argv: readonly string[],
): Promise<ChildProcess & { firstLine: string }> {
  const [file = "", ...args] = host.world.enter([process.execPath, ...argv]);
  const child = spawn(file, args, { stdio: ["ignore", "pipe", "inherit"] });
  const firstLine = await new Promise<string>((resolve, reject) => {
    child.once("error", reject);
    child.once("exit", (code) => reject(new Error(`${argv.join(" ")} ended with ${code}`)));
    child.stdout.once("data", (chunk: Buffer) => resolve(chunk.toString()));
  });
  return Object.assign(child, { firstLine });
}

async function bundleStandIn(dir: string): Promise<string> {
  const outfile = join(dir, "stand-in-shim.cjs");
  await build({
    entryPoints: [join(repositoryRoot, "bench/stand-in-shim.ts")],
    outfile,
    bundle: true,
    platform: "node",
    format: "cjs",
    logLevel: "warning",
  });
  return outfile;
}
