/**
 * A scrape of 50 sandboxes. Real ones as long as the machine starts them in time; the others are stand-ins: a process
 * each, with the shim's own control service on its own socket and a journal, and a guest that is made up.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { join } from "node:path";
import { build } from "esbuild";
import { built, repositoryRoot } from "../../test/harness/paths.ts";
import { runOk } from "../../test/harness/run.ts";
import { TestHost } from "../../test/harness/test-host.ts";
import type { Measurement, Suite } from "../suite.ts";

const SANDBOXES = 50;
/** Milliseconds in which real sandboxes are started. */
const STARTING_MS = 120_000;
/** Scrapes per run. */
const SCRAPES = 10;

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
      const shim = join(built.bin, "shim");
      const monitor = await inWorld(host, [shim, "monitor", "--listen", "127.0.0.1:0"]);
      children.push(monitor);
      return await scrapes(host, monitor.firstLine.split(" ", 1)[0] ?? "", runs, ids.length);
    } finally {
      for (const child of children) child.kill();
      for (const id of ids) await host.remove(id);
    }
  },
};

/** Milliseconds of each scrape, and of the gathering within, after one for warming up. */
async function scrapes(host: TestHost, url: string, runs: number, real: number): Promise<Measurement[]> {
  const script = `(async () => {
    const all = [];
    let before = 0;
    for (let i = 0; i <= ${runs * SCRAPES}; i++) {
      const startedAt = performance.now();
      const text = await (await fetch("${url}metrics")).text();
      const ms = performance.now() - startedAt;
      const sample = (name) => Number(new RegExp("^" + name + " (.*)$", "m").exec(text)[1]);
      const up = (text.match(/^caisson_sandbox_up\\{.*\\} 1$/gm) ?? []).length;
      const guests = (text.match(/^caisson_guest_up\\{.*\\} 1$/gm) ?? []).length;
      const cpu = sample("caisson_monitor_process_cpu_seconds_total") * 1000;
      if (i > 0) all.push([ms, sample("caisson_monitor_collect_seconds") * 1000, up, guests, text.length, cpu - before]);
      before = cpu;
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
    console.log(JSON.stringify(all));
  })()`;
  const { stdout } = await runOk(host.world.enter([process.execPath, "-e", script]), { timeoutMs: 600_000 });
  const all = JSON.parse(stdout) as [number, number, number, number, number, number][];
  const of = `${SANDBOXES} sandboxes (${real} virtual machines)`;
  const column = (name: string, unit: Measurement["unit"], at: 0 | 1 | 2 | 3 | 4 | 5): Measurement => ({
    name,
    unit,
    values: all.map((row) => row[at]),
  });
  return [
    column(`scrape of ${of}`, "ms", 0),
    column("gathering within", "ms", 1),
    column("CPU time of the monitor per scrape", "ms", 5),
    column("shims that answered in time", "count", 2),
    column("guests that answered since the last scrape", "count", 3),
    column("size of the response", "bytes", 4),
  ];
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
