/**
 * Load on one shim: processes one after the other and at once in one container, and containers that come and go in its
 * pod; its memory, after a garbage collection, and its descriptors are noted on the way.
 */
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { BUSYBOX_IMAGE } from "../harness/images.ts";
import { openDescriptors } from "../harness/leak-ledger.ts";
import { describeResult } from "../harness/run.ts";
import { CAISSON_RUNTIME } from "../harness/test-host.ts";
import type { FaultHost } from "./fault-host.ts";
import type { Sample } from "./growth.ts";

export interface LoadPlan {
  /** Execs one after the other, and how many between two samples. */
  readonly series: number;
  readonly sampleEvery: number;
  /** Execs at once. */
  readonly burst: number;
  /** Containers started and removed in the pod. */
  readonly rounds: number;
  readonly perRound: number;
  readonly atOnce: number;
}

export interface ShimFigures {
  /** What a garbage collection leaves: JavaScript's heap and what it holds outside of it. */
  readonly heldBytes: number;
  /** Resident memory of the process, that of shared libraries included. */
  readonly rssBytes: number;
  readonly descriptors: readonly string[];
}

export interface LoadResult {
  readonly stages: readonly {
    readonly name: string;
    readonly seconds: number;
    readonly figures: ShimFigures;
  }[];
  /** Held bytes during the series, by execs done. */
  readonly samples: readonly Sample[];
  readonly problems: readonly string[];
}

const POD = "pod";
const MAIN = "main";
const CALL_LIMIT_MS = 300_000;
const HEAP_LIMIT_MS = 60_000;
/** How long descriptors of the last calls may take to close. */
const SETTLE_LIMIT_MS = 10_000;

const role = (type: string): string[] => [
  "--annotation",
  `io.kubernetes.cri.container-type=${type}`,
  "--annotation",
  `io.kubernetes.cri.sandbox-id=${POD}`,
];

/** Environment of a containerd whose shims can be asked for their memory, and have time: what is late is no leak. */
export const heapProbe = (dir: string): Record<string, string> => ({
  NODE_OPTIONS: `--require=${join(import.meta.dirname, "heap-probe.cjs")}`,
  CAISSON_TIMEOUT_SCALE: "10",
  CAISSON_HEAP_FILE: join(dir, "heap.json"),
});

/** Runs the plan on a host that was started with `heapProbe`. Leaves it clean. */
export async function runLoad(
  host: FaultHost,
  plan: LoadPlan,
  report: (text: string) => void,
): Promise<LoadResult> {
  const problems: string[] = [];
  const stages: { name: string; seconds: number; figures: ShimFigures }[] = [];
  const samples: Sample[] = [];
  const exec = async (): Promise<void> => {
    const result = await host.exec(MAIN, ["sh", "-c", "echo out; exit 9"], { timeoutMs: CALL_LIMIT_MS });
    if (result.code !== 9 || result.stdout !== "out\n") problems.push(describeResult(result));
  };
  const container = async (): Promise<void> => {
    const flags = ["run", "--rm", "--runtime", CAISSON_RUNTIME, ...role("container")];
    const argv = [...flags, BUSYBOX_IMAGE, host.newId(), "sh", "-c", "echo out; exit 7"];
    const result = await host.containerd.ctr(argv, { timeoutMs: CALL_LIMIT_MS });
    if (result.code !== 7 || result.stdout !== "out\n") problems.push(describeResult(result));
  };
  const before = await host.ledger();
  const start = ["run", "--detach", "--null-io", "--runtime", CAISSON_RUNTIME];
  await host.containerd.ctrOk([...start, ...role("sandbox"), BUSYBOX_IMAGE, POD, "sleep", "1000"]);
  await host.containerd.ctrOk([...start, ...role("container"), BUSYBOX_IMAGE, MAIN, "sleep", "100000"]);
  const shim = await host.worker("shim");
  const stage = async (name: string, body: () => Promise<void>): Promise<void> => {
    const started = performance.now();
    await body();
    const seconds = (performance.now() - started) / 1000;
    const figures = await settled(host, shim, stages[0]?.figures);
    stages.push({ name, seconds, figures });
    const kept = (figures.heldBytes / 2 ** 20).toFixed(2);
    report(`${name}: ${seconds.toFixed(1)} s; held ${kept} MiB, ${figures.descriptors.length} descriptors`);
    const first = stages[0]?.figures.descriptors ?? [];
    if (first.join() !== figures.descriptors.join())
      problems.push(
        `descriptors after "${name}": ${figures.descriptors.join(" ")}; before: ${first.join(" ")}`,
      );
  };
  // What is loaded on first use is loaded.
  await exec();
  await container();
  await stage("at rest", () => Promise.resolve());
  await stage(`${plan.burst} execs at once`, async () => {
    await Promise.all(Array.from({ length: plan.burst }, exec));
  });
  for (let round = 1; round <= plan.rounds; round++) {
    await stage(`round ${round}: ${plan.perRound} containers, ${plan.atOnce} at a time`, () =>
      atOnce(plan.perRound, plan.atOnce, container),
    );
  }
  await stage(`${plan.series} execs in a row`, async () => {
    for (let done = 0; done <= plan.series; done++) {
      if (done % plan.sampleEvery === 0)
        samples.push({ done, bytes: (await figuresOf(host, shim)).heldBytes });
      if (done < plan.series) await exec();
    }
  });
  for (const id of [MAIN, POD]) for (const hung of await host.clean(id)) problems.push(`hung: ${hung}`);
  for (const leak of await host.leaks(before)) problems.push(`leaked ${leak}`);
  return { stages, samples, problems };
}

/** `count` runs of `body`, at most `limit` at a time. */
async function atOnce(count: number, limit: number, body: () => Promise<void>): Promise<void> {
  let left = count;
  const worker = async () => {
    while (left-- > 0) await body();
  };
  await Promise.all(Array.from({ length: limit }, worker));
}

/** The log of the guest's console is opened with its first line, whenever that comes. */
const descriptorsOf = (shim: number): string[] =>
  openDescriptors(shim).filter((target) => !target.endsWith("/console.log"));

/** The figures, once the descriptors are those of `rest` or after a limit. */
async function settled(host: FaultHost, shim: number, rest: ShimFigures | undefined): Promise<ShimFigures> {
  const deadline = performance.now() + SETTLE_LIMIT_MS;
  while (rest !== undefined && performance.now() < deadline) {
    if (descriptorsOf(shim).join() === rest.descriptors.join()) break;
    await sleep(50);
  }
  return figuresOf(host, shim);
}

/** @throws when the shim does not answer; one without the probe is ended by the signal. */
async function figuresOf(host: FaultHost, shim: number): Promise<ShimFigures> {
  const file = join(host.world.dir, "heap.json");
  rmSync(file, { force: true });
  process.kill(shim, "SIGUSR2");
  const deadline = performance.now() + HEAP_LIMIT_MS;
  for (;;) {
    const memory = readQuietly(file);
    if (memory !== undefined) {
      const { heapUsed, external, rss } = JSON.parse(memory) as NodeJS.MemoryUsage;
      return { heldBytes: heapUsed + external, rssBytes: rss, descriptors: descriptorsOf(shim) };
    }
    if (performance.now() > deadline) throw new Error("the shim does not tell its memory");
    await sleep(20);
  }
}

function readQuietly(file: string): string | undefined {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return undefined;
  }
}
