/**
 * Writes docs/reliability.md from what `npm run test:faults -- --json` and `npm run test:load -- --json` kept:
 * `node --import tsx test/faults/report.ts MATRIX.json LOAD.json`.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { HostFacts } from "../../bench/host-facts.ts";
import { repositoryRoot } from "../harness/paths.ts";
import type { LoadResult } from "./load-run.ts";
import { type TimedOutcome, wholeMatrix } from "./matrix.ts";
import { matrixTable } from "./table.ts";

interface MatrixRun {
  readonly startedAt: string;
  readonly durationMs: number;
  readonly workers: number;
  readonly loadBefore: number;
  readonly facts: HostFacts;
  readonly outcomes: readonly TimedOutcome[];
  /** Where parts of it were run otherwise: a sentence. */
  readonly note?: string;
}

interface LoadRun extends LoadResult {
  readonly startedAt: string;
  readonly growth: number;
  readonly allowed: number;
  readonly warmUp: number;
}

const read = <T>(file: string | undefined): T => {
  if (file === undefined) throw new Error("usage: report.ts MATRIX.json LOAD.json");
  return JSON.parse(readFileSync(file, "utf8")) as T;
};
const day = (time: string): string => time.slice(0, 10);
const minutes = (ms: number): string => (ms / 60_000).toFixed(0);
const mib = (bytes: number): string => (bytes / 2 ** 20).toFixed(2);

function machine(facts: HostFacts): string {
  const { system, kernel, cpu, cpus, memoryMiB, node, qemu, containerd, commit } = facts;
  return `${system}, kernel ${kernel}, ${cpus} CPUs (${cpu}), ${memoryMiB} MiB; Node.js ${node}, ${qemu}, ${containerd};
commit ${commit}; emulated (TCG)`;
}

function matrixText(run: MatrixRun): string[] {
  const missing = wholeMatrix().length - run.outcomes.length;
  if (missing !== 0) throw new Error(`this is no complete run of the matrix: ${missing} cells differ`);
  const bad = run.outcomes.filter(({ problems }) => problems.length > 0);
  const shown = run.outcomes.map(({ shownMs }) => shownMs).sort((a, b) => a - b);
  const median = (shown[Math.floor(shown.length / 2)] ?? 0) / 1000;
  return [
    `Run of ${day(run.startedAt)}: ${run.outcomes.length} cells, ${bad.length} bad, in ${minutes(run.durationMs)} minutes with`,
    `${run.workers} hosts at a time; load average before it ${run.loadBefore.toFixed(1)}. ${machine(run.facts)}.`,
    ...(run.note === undefined ? [] : [run.note]),
    "",
    "A time is that from the fault until containerd's client had its answer or its event; for `error` and `shim`, whose fault",
    `comes by itself, it includes the way to the step, up to a boot. Median ${median.toFixed(1)} s, longest`,
    `${((shown.at(-1) ?? 0) / 1000).toFixed(1)} s. An empty cell cannot happen: the process is not there yet, or no longer.`,
    "",
    ...matrixTable(run.outcomes),
  ];
}

function loadText(run: LoadRun): string[] {
  const rows = run.stages.map(({ name, seconds, figures }) =>
    [
      name,
      seconds.toFixed(0),
      mib(figures.heldBytes),
      mib(figures.rssBytes),
      figures.descriptors.length,
    ].join(" | "),
  );
  const held = run.samples.map(({ bytes }) => Math.round(bytes / 1024)).join(", ");
  return [
    `Run of ${day(run.startedAt)}, one shim with one pod from beginning to end, the stages in this order. *Held* is what a`,
    "garbage collection leaves; *resident* also holds what Node keeps for later and the shared libraries.",
    "",
    "| stage | s | held, MiB | resident, MiB | descriptors |",
    "| --- | --- | --- | --- | --- |",
    ...rows.map((row) => `| ${row} |`),
    "",
    `During the series, every ${run.samples[1]?.done ?? 0} execs, held KiB: ${held}. The first ${run.warmUp} do not count: the ring of`,
    `the last 512 events fills up. From there on the median slope is ${Math.round(run.growth)} bytes per exec; ${run.allowed} are allowed.`,
    run.problems.length === 0
      ? "Every exec and container gave its output and its status; nothing was left."
      : `Problems: ${run.problems.join("; ")}.`,
  ];
}

const text = [
  "# Reliability",
  "",
  "What dies, when, and what is left. This file is written by `test/faults/report.ts` from what the two commands keep (`--json`);",
  "the figures are those of one machine on one day.",
  "",
  "## Fault matrix",
  "",
  "`npm run test:faults` injects every fault at every step of a container's life and checks after each: containerd shows the",
  "right end within a bounded time, a new container works, and nothing is left (processes, mounts, interfaces, qdiscs and",
  "filters of the pod's namespace, files, bundles, cgroups). Words after `--` choose cells by name, `--list` shows the names,",
  "`--containerd 2.1` takes another containerd. `npm test` runs a part in which each kind of fault is there once, and the",
  "restarts of containerd with all three versions.",
  "",
  "| fault | what is done |",
  "| --- | --- |",
  "| error | our own code throws at the step |",
  "| shim | SIGKILL to the shim, at the step |",
  "| qemu, virtiofsd, vsock | SIGKILL to that process while the shim stands still at the step |",
  "| agent | the guest's PID 1 ends while the shim stands still at the step |",
  "| containerd | SIGKILL to the daemon at the step; then it is started again |",
  "",
  "A step is a fail point: a place in our code with a name (`src/base/failpoint.ts`). After every acquire, which is every",
  "step of an undo stack, there is one too; a unit test holds the list equal to the code.",
  "",
  ...matrixText(read<MatrixRun>(process.argv[2])),
  "",
  "## Load",
  "",
  "`npm run test:load`. Descriptors must be the same after each stage. Memory is judged by its trend: the median slope over",
  "all pairs of samples, which neither noise nor a step that comes once can move, and which a leak per exec cannot hide from.",
  "",
  ...loadText(read<LoadRun>(process.argv[3])),
  "",
  "## Who cleans up",
  "",
  "| what died | who notices | what happens |",
  "| --- | --- | --- |",
  "| QEMU, virtiofsd, the vsock backend, the agent | the shim, at once | all processes of the pod end with 137; the rest goes with Delete |",
  "| the shim | containerd, by its socket | containerd runs `delete`, which works from the journal; QEMU and its helpers die with the shim |",
  "| `delete` itself | containerd at its next start, `shim gc`, or the next sandbox of that id | it is run again; it may be repeated |",
  "| `start` | nobody | a server without a sandbox that nobody calls for 30 s ends; a socket goes with the next `delete` or `shim gc` |",
  "| containerd | nobody needs to | containers run on; the next containerd finds their shims. A Create whose caller has gone is undone |",
  "| the host | – | `/run` is empty after a boot; containerd finds no shim and forgets the tasks |",
  "",
].join("\n");
writeFileSync(join(repositoryRoot, "docs/reliability.md"), text);
