/** `lab test`: runs of the lab's lane, one after another, and a record of how each ended. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createWriteStream, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { availableParallelism, cpus, loadavg } from "node:os";
import { join } from "node:path";
import { finished } from "node:stream/promises";
import { type Choice, SUITES_VARIABLE } from "./choice.ts";
import { logs, repositoryRoot } from "./places.ts";
import { say } from "./steps.ts";

/** In front of a command: it is told to end when we are gone, and ends what it has started (prctl(2), PR_SET_PDEATHSIG). */
const TOLD_WITH_US = ["/usr/bin/setpriv", "--pdeathsig", "TERM"] as const;

export interface RunRecord {
  /** ISO 8601. */
  readonly started: string;
  readonly files: readonly string[];
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
  readonly seconds: number;
  /** Processes that wanted to run, on average over the last five minutes of the run (getloadavg(3)). */
  readonly load: number;
  /** The lane's jobs: its preparation and its files. */
  readonly jobs: readonly JobRecord[];
  readonly failures: readonly string[];
}

export interface JobRecord {
  readonly name: string;
  readonly passed: number;
  readonly failed: number;
  readonly seconds: number;
}

export interface RunsReport {
  readonly host: string;
  readonly node: string;
  readonly processor: string;
  readonly processors: number;
  readonly runs: readonly RunRecord[];
}

export interface RunsInit {
  /** Which host the lab is. */
  readonly variant: string;
  readonly choice: Choice;
  readonly count: number;
  /** File for the report; runs that it has already are kept. */
  readonly report?: string;
}

/** Runs the tests `count` times, without the second chance that CI gives. @returns the exit status: 0 when all passed */
export async function testRuns({ variant, choice, count, report }: RunsInit): Promise<number> {
  mkdirSync(logs, { recursive: true });
  let status = 0;
  for (let run = 1; run <= count; run++) {
    const log = join(logs, `test-${variant}-run-${run}.log`);
    const { code, record } = await testRun(variant, choice, log);
    if (code !== 0) status = 1;
    if (count > 1) say(`run ${run} of ${count}: ${summary(record)}; ${log}`);
    if (report !== undefined) append(report, variant, record);
  }
  return status;
}

async function testRun(variant: string, choice: Choice, log: string) {
  const started = new Date();
  const script = join(repositoryRoot, "scripts/test.ts");
  const [file, ...args] = [...TOLD_WITH_US, process.execPath, "--import", "tsx", script, ...choice.arguments];
  const child = spawn(file, args, {
    stdio: ["inherit", "pipe", "inherit"],
    env: {
      ...process.env,
      CI: "false",
      CAISSON_LAB_HOST: variant,
      ...(choice.suites === undefined ? {} : { [SUITES_VARIABLE]: choice.suites.join(" ") }),
    },
  });
  const copy = createWriteStream(log);
  child.stdout.pipe(process.stdout, { end: false });
  child.stdout.pipe(copy);
  // Not read from the file: another command may write to it at the same time.
  const output: Buffer[] = [];
  child.stdout.on("data", (chunk: Buffer) => output.push(chunk));
  const [[code]] = (await Promise.all([once(child, "exit"), finished(copy)])) as [[number | null], unknown];
  return {
    code,
    record: recordOf(Buffer.concat(output).toString(), started, choice.suites ?? choice.arguments),
  };
}

/** What scripts/test.ts printed; a run that it did not count counts as one failure. */
export function recordOf(output: string, started: Date, files: readonly string[]): RunRecord {
  const counts = /^(\d+) passed, (\d+) failed, (\d+) skipped$/m.exec(output);
  const [passed, failed, skipped] = counts === null ? [0, 1, 0] : counts.slice(1).map(Number);
  // What a test shows under a title of its own ends with dashes, too.
  const failures = [...output.matchAll(/^--- (?!output$)(?!.* ---$)(.*)$/gm)].map((match) => match[1] ?? "");
  const seconds = Math.round((Date.now() - started.getTime()) / 1000);
  return {
    started: started.toISOString(),
    files,
    passed: passed ?? 0,
    failed: failed ?? 0,
    skipped: skipped ?? 0,
    seconds,
    load: Math.round((loadavg()[1] ?? 0) * 10) / 10,
    jobs: jobsOf(output),
    failures,
  };
}

/** The lines that jobLine() of scripts/test-results.ts makes. */
function jobsOf(output: string): JobRecord[] {
  const line = /^ {2}(\S.*): (?:ok \((\d+)\)|FAILED \((\d+) of (\d+)\)) ([\d.]+) s(?:, \d+ skipped)?$/gm;
  return [...output.matchAll(line)].map(([, name = "", ok, bad, all, seconds]) => {
    const failed = Number(bad ?? 0);
    return { name, passed: Number(ok ?? all) - failed, failed, seconds: Math.round(Number(seconds)) };
  });
}

/** The runs of a report as a table of docs/lab.md. */
export function runsTable({ runs }: RunsReport): string {
  const result = ({ passed, failed, seconds }: JobRecord) =>
    `${failed === 0 ? `${passed} passed` : `**${failed} of ${passed + failed} failed**`}, ${seconds} s`;
  const names = [...new Set(runs.flatMap(({ jobs }) => jobs.map(({ name }) => name)))];
  const row = (cells: readonly (string | number)[]) => `| ${cells.join(" | ")} |`;
  const line = (run: RunRecord, index: number) => {
    const cells = names.map((name) => {
      const job = run.jobs.find((candidate) => candidate.name === name);
      return job === undefined ? "" : result(job);
    });
    return row([index + 1, ...cells, run.seconds, run.load]);
  };
  return [
    row(["run", ...names.map((name) => name.replace(/^test\/lab\//, "")), "seconds", "load"]),
    row(["---", ...names.map(() => "---"), "---", "---"]),
    ...runs.map(line),
  ].join("\n");
}

const summary = ({ passed, failed, seconds }: RunRecord) =>
  `${passed} passed, ${failed} failed, ${seconds} s`;

function append(file: string, variant: string, record: RunRecord): void {
  const before = existsSync(file) ? (JSON.parse(readFileSync(file, "utf8")) as RunsReport).runs : [];
  const report: RunsReport = {
    host: variant,
    node: process.version,
    processor: cpus()[0]?.model ?? "",
    processors: availableParallelism(),
    runs: [...before, record],
  };
  writeFileSync(file, `${JSON.stringify(report, null, 2)}\n`);
}
