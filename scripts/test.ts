/**
 * Runs the test lanes: static, unit, integration, e2e and lab, and lab-e2e on request. Arguments select lanes, test files or
 * directories; none means all but the last. A file runs in a process of its own, bounded in time. Failures are shown in
 * full at the end; the last line is "N passed, N failed, N skipped" over all of them. A lane in which no test ran, be it
 * that all were skipped, is a failure.
 */
import { spawn } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { type JobResult, jobLine, laneLine, nothingRan, type TestRecord, tallyOf } from "./test-results.ts";

const root = fileURLToPath(new URL("..", import.meta.url));

interface Lane {
  readonly name: string;
  /** Directory of the test files; the static lane has commands instead. */
  readonly dir?: string;
  readonly concurrency: number;
  /** Seconds that one file or command may take. */
  readonly limitS: number;
  /** Runs only where it is asked for by name: it takes long. */
  readonly onRequest?: boolean;
  /** What its files need and what takes a while; starts with the first lane, behind whatever else wants a processor. */
  readonly preparation?: {
    readonly name: string;
    readonly command: readonly string[];
    readonly limitS: number;
  };
}

const savedHost = {
  name: "disk and saved host",
  command: ["nice", "-n", "19", process.execPath, "--import", "tsx", "scripts/lab.ts", "snapshot"],
  limitS: 2400,
} as const;
const parallel = Math.max(2, Math.min(4, availableParallelism()));
const lanes: readonly Lane[] = [
  { name: "static", concurrency: 1, limitS: 300 },
  { name: "unit", dir: "test/unit", concurrency: parallel, limitS: 120 },
  { name: "integration", dir: "test/integration", concurrency: 1, limitS: 180 },
  {
    name: "e2e",
    dir: "test/e2e",
    concurrency: 1,
    limitS: 900,
    preparation: {
      name: "template",
      command: [process.execPath, "--import", "tsx", "test/harness/make-template.ts"],
      limitS: 120,
    },
  },
  {
    name: "lab",
    dir: "test/lab",
    concurrency: 2,
    limitS: 1500,
    preparation: savedHost,
  },
  {
    name: "lab-e2e",
    dir: "test/lab-e2e",
    concurrency: 2,
    limitS: 5400,
    onRequest: true,
    preparation: savedHost,
  },
];

/** Checks of the sources as a whole; each is one test of the static lane. */
const staticChecks: ReadonlyArray<{ name: string; command: readonly string[] }> = [
  { name: "types of the host side", command: ["node_modules/.bin/tsc", "-p", "tsconfig.json", "--noEmit"] },
  {
    name: "types of the guest agent",
    command: ["node_modules/.bin/tsc", "-p", "guest-agent/tsconfig.json", "--noEmit"],
  },
  { name: "lint and format", command: ["node_modules/.bin/biome", "check", "."] },
  { name: "generated code is that of proto/", command: [process.execPath, "scripts/check-generated.mjs"] },
];

interface Job {
  readonly title: string;
  readonly limitS: number;
  run(): Promise<JobResult>;
}

interface Finished {
  readonly code: number | null;
  readonly timedOut: boolean;
  readonly output: string;
  readonly seconds: number;
}

/** Runs a command in a process group of its own, which is killed when it takes longer than `limitS`. */
function runCommand(
  command: readonly string[],
  limitS: number,
  env: NodeJS.ProcessEnv = {},
): Promise<Finished> {
  const started = performance.now();
  const [file = "", ...args] = command;
  const child = spawn(file, args, {
    cwd: root,
    env: { ...process.env, ...env },
    stdio: ["ignore", "pipe", "pipe"],
    detached: true,
  });
  active.add(child.pid ?? 0);
  const chunks: Buffer[] = [];
  child.stdout.on("data", (chunk: Buffer) => chunks.push(chunk));
  child.stderr.on("data", (chunk: Buffer) => {
    if (env.CAISSON_TEST_PROGRESS === "1") process.stdout.write(chunk);
    else chunks.push(chunk);
  });
  return new Promise((resolve, reject) => {
    let timedOut = false;
    const timer = setTimeout(() => {
      timedOut = true;
      killGroup(child.pid ?? 0);
    }, limitS * 1000);
    child.once("error", reject);
    // "exit", not "close": something left behind may hold the pipes open.
    child.once("exit", (code) => {
      clearTimeout(timer);
      active.delete(child.pid ?? 0);
      setTimeout(() => {
        child.stdout.destroy();
        child.stderr.destroy();
        const output = Buffer.concat(chunks).toString();
        resolve({ code, timedOut, output, seconds: (performance.now() - started) / 1000 });
      }, 50);
    });
  });
}

/** Process groups that run now, ended when we are interrupted. */
const active = new Set<number>();

function killGroup(pid: number): void {
  try {
    process.kill(-pid, "SIGKILL");
  } catch {
    // It has just ended.
  }
}

function fileJob(file: string, lane: Lane): Job {
  return {
    title: file,
    limitS: lane.limitS,
    async run() {
      const scratch = mkdtempSync(join(tmpdir(), "caisson-test-"));
      const results = join(scratch, "results");
      const flags = ["--import", "tsx", `--test-reporter=${join(root, "scripts/test-reporter.mjs")}`];
      const command = [process.execPath, ...flags, `--test-reporter-destination=${results}`, file];
      try {
        const finished = await runCommand(command, lane.limitS, {
          CAISSON_TEST_PROGRESS: ["e2e", "lab", "lab-e2e"].includes(lane.name) ? "1" : "0",
        });
        return {
          title: file,
          tests: recordsOf(results, finished, lane),
          output: finished.output,
          seconds: finished.seconds,
        };
      } finally {
        rmSync(scratch, { recursive: true, force: true });
      }
    },
  };
}

/** The tests a file reported; a file that ended badly without a failed test is a failure by itself. */
function recordsOf(results: string, finished: Finished, lane: Lane): TestRecord[] {
  let text = "";
  try {
    text = readFileSync(results, "utf8");
  } catch {
    // The process ended before it opened the file.
  }
  const lines = text.split("\n").slice(0, -1);
  const tests = lines.map((line) => JSON.parse(line) as TestRecord);
  const failure = (error: string): TestRecord => ({
    name: "the file itself",
    outcome: "failed",
    durationMs: 0,
    error,
  });
  if (finished.timedOut) return [...tests, failure(`killed: it ran longer than ${lane.limitS} s`)];
  const failed = tests.some((test) => test.outcome === "failed");
  if (finished.code !== 0 && !failed) return [...tests, failure(`exit status ${finished.code}`)];
  return tests.length === 0 ? [failure("it has no test")] : tests;
}

function commandJob(check: { name: string; command: readonly string[] }, lane: Lane): Job {
  return {
    title: check.name,
    limitS: lane.limitS,
    async run() {
      const finished = await runCommand(check.command, lane.limitS);
      const passed = finished.code === 0;
      const error = finished.timedOut ? `killed after ${lane.limitS} s` : `exit status ${finished.code}`;
      const durationMs = finished.seconds * 1000;
      const test: TestRecord = passed
        ? { name: check.name, outcome: "passed", durationMs }
        : { name: check.name, outcome: "failed", durationMs, error };
      return { title: check.name, tests: [test], output: finished.output, seconds: finished.seconds };
    },
  };
}

/** Test files at or below `path`, sorted, relative to the repository. */
function testFiles(path: string): string[] {
  const absolute = resolve(root, path);
  if (statSync(absolute, { throwIfNoEntry: false }) === undefined) return [];
  if (statSync(absolute).isFile()) return [relative(root, absolute)];
  return readdirSync(absolute, { recursive: true })
    .map(String)
    .filter((name) => name.endsWith(".test.ts"))
    .map((name) => relative(root, join(absolute, name)))
    .sort();
}

interface Selection {
  readonly lane: Lane;
  readonly jobs: readonly Job[];
}

/** Turns the arguments into jobs by lane. @throws when an argument is neither a lane nor a path with tests. */
function select(args: readonly string[]): Selection[] {
  const everything = (lane: Lane): Selection => ({
    lane,
    jobs:
      lane.dir === undefined
        ? staticChecks.map((check) => commandJob(check, lane))
        : testFiles(lane.dir).map((file) => fileJob(file, lane)),
  });
  if (args.length === 0) return lanes.filter(({ onRequest }) => onRequest !== true).map(everything);
  const selections = args.map((argument) => {
    const lane = lanes.find((candidate) => candidate.name === argument);
    if (lane !== undefined) return everything(lane);
    const files = testFiles(relative(root, resolve(argument)));
    const owner = lanes.find(({ dir }) => dir !== undefined && files[0]?.startsWith(`${dir}/`));
    if (owner === undefined) {
      const names = lanes.map((candidate) => candidate.name).join(", ");
      throw new Error(`"${argument}" is neither a lane (${names}) nor a file or directory with tests`);
    }
    return { lane: owner, jobs: files.map((file) => fileJob(file, owner)) };
  });
  // One block per lane, in the lanes' own order.
  return lanes
    .map((lane) => ({ lane, jobs: selections.filter((it) => it.lane === lane).flatMap((it) => it.jobs) }))
    .filter((selection) => selections.some((it) => it.lane === selection.lane));
}

/** Starts what a lane needs. The result is that of a job with one test. */
function prepare({ lane }: Selection): Promise<JobResult> | undefined {
  if (lane.preparation === undefined) return undefined;
  return commandJob(lane.preparation, { ...lane, limitS: lane.preparation.limitS }).run();
}

/** Runs the jobs of a lane, at most `concurrency` at a time, and prints a line for each. None when it is not prepared. */
async function runLane(
  { lane, jobs }: Selection,
  preparation: Promise<JobResult> | undefined,
): Promise<JobResult[]> {
  const results: JobResult[] = [];
  const prepared = await preparation;
  if (prepared !== undefined) {
    results.push(prepared);
    console.log(jobLine(prepared));
    if (tallyOf([prepared]).failed > 0) return results;
  }
  const queue = [...jobs];
  const worker = async () => {
    for (let job = queue.shift(); job !== undefined; job = queue.shift()) {
      const result = await runJob(job, lane);
      results.push(result);
      console.log(jobLine(result));
    }
  };
  await Promise.all(Array.from({ length: lane.concurrency }, worker));
  return results;
}

/** What failed at first in CI and passed when it was run again: to be mended, and named at the end. */
const flaky: JobResult[] = [];

/**
 * In CI a file whose tests fail is run once more: one late wake-up of a busy machine among hundreds of virtual machines
 * shall not hide the other results. A second failure is a failure; a pass is reported as flaky, with the first output.
 */
async function runJob(job: Job, lane: Lane): Promise<JobResult> {
  const first = await job.run();
  if (tallyOf([first]).failed === 0 || process.env.CI !== "true" || lane.dir === undefined) return first;
  const second = await job.run();
  if (tallyOf([second]).failed === 0) flaky.push(first);
  return second;
}

function printFailures(results: readonly JobResult[]): void {
  for (const result of results) {
    const failed = result.tests.filter((test) => test.outcome === "failed");
    if (failed.length === 0) continue;
    console.log(`\n===== ${result.title}`);
    for (const test of failed) console.log(`--- ${test.name}\n${test.error ?? ""}`);
    const output = result.output.trimEnd().split("\n").slice(-200).join("\n");
    if (output !== "") console.log(`--- output\n${output}`);
  }
}

async function main(): Promise<number> {
  const started = performance.now();
  const all: JobResult[] = [];
  const emptyLanes: string[] = [];
  const selections = select(process.argv.slice(2)).map((selection) => ({
    selection,
    preparation: prepare(selection),
  }));
  for (const { selection, preparation } of selections) {
    const laneStarted = performance.now();
    console.log(`${selection.lane.name}:`);
    const results = await runLane(selection, preparation);
    all.push(...results);
    const { name, preparation: prepares } = selection.lane;
    if (nothingRan(results, prepares?.name)) emptyLanes.push(name);
    console.log(laneLine(name, results, (performance.now() - laneStarted) / 1000));
  }
  if (flaky.length > 0) {
    console.log(
      `\nflaky: ${flaky.map((result) => result.title).join(", ")} failed at first and passed when run again:`,
    );
    printFailures(flaky);
  }
  printFailures(all);
  for (const lane of emptyLanes) console.log(`\nlane ${lane}: no test ran, which counts as a failure`);
  const tally = tallyOf(all);
  const failed = tally.failed + emptyLanes.length;
  console.log(`\ntotal time ${((performance.now() - started) / 1000).toFixed(1)} s`);
  console.log(`${tally.passed} passed, ${failed} failed, ${tally.skipped} skipped`);
  return failed === 0 ? 0 : 1;
}

for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.once(signal, () => {
    for (const pid of active) killGroup(pid);
    process.exit(1);
  });
}
try {
  process.exitCode = await main();
} catch (error) {
  console.error(`test: ${error instanceof Error ? error.message : error}`);
  process.exitCode = 2;
}
