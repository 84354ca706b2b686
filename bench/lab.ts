/**
 * `npm run bench:lab -- SUITE...`: suites in the lab's host, where guests run under KVM, on our package as it is installed
 * there. The results come back to .cache/bench/lab. Times in an emulated host say nothing about a real one; memory does.
 */
import { copyFileSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { programOf, SUITE_ROOT, writeSuite } from "../scripts/lab/suite.ts";
import { LabHost, labVariant } from "../test/harness/lab.ts";
import { repositoryRoot } from "../test/harness/paths.ts";
import { describeResult, runOk } from "../test/harness/run.ts";
import { factLines, type Report, readReport, textTable, writeReport } from "./report.ts";

const usage = `Usage: npm run bench:lab -- SUITE... [--runs N] [--max N]

Wants the lab's saved host: npm run lab -- snapshot`;

/** An emulated host takes its time. */
const SUITE_LIMIT_MS = 3_600_000;
/** Of the lab's service for containerd: docs/lab.md, "Deadlines". */
const TIMEOUT_SCALE = 10;

async function putBench(host: LabHost): Promise<void> {
  const tree = mkdtempSync(join(tmpdir(), "caisson-bench-"));
  try {
    await writeSuite(["bench/main.ts"], tree);
    mkdirSync(join(tree, "bench"), { recursive: true });
    copyFileSync(join(repositoryRoot, "bench/fs-probe.c"), join(tree, "bench/fs-probe.c"));
    await host.putTree(tree, SUITE_ROOT);
  } finally {
    rmSync(tree, { recursive: true, force: true });
  }
}

/** Runs `suite` in `host` and brings its result here, less what the host cannot know. */
async function measure(host: LabHost, suite: string, flags: readonly string[], dir: string): Promise<Report> {
  const script = `cd ${SUITE_ROOT}; export CAISSON_TIMEOUT_SCALE=${TIMEOUT_SCALE}; exec node ${programOf("bench/main.ts")} ${[suite, ...flags].join(" ")} --json /root/${suite}.json`;
  const result = await host.sh(script, { timeoutMs: SUITE_LIMIT_MS });
  if (result.code !== 0) throw new Error(describeResult(result));
  const file = join(dir, `${suite}.json`);
  await host.get(`/root/${suite}.json`, file);
  const report = readReport(file);
  const commit = (await runOk(["git", "rev-parse", "--short", "HEAD"])).stdout.trim();
  const whole = { ...report, host: { ...report.host, commit, lab: labVariant } };
  writeReport(file, whole);
  return whole;
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { runs: { type: "string", default: "3" }, max: { type: "string" } },
  });
  if (positionals.length === 0) throw new Error(usage);
  const flags = ["--runs", values.runs, ...(values.max === undefined ? [] : ["--max", values.max])];
  const dir = join(repositoryRoot, ".cache/bench/lab");
  mkdirSync(dir, { recursive: true });
  await using host = await LabHost.start();
  process.stderr.write("bench: our package and the bench into the host\n");
  await host.install(await host.putPackage());
  await putBench(host);
  for (const suite of positionals) {
    process.stderr.write(`bench: ${suite} in the host\n`);
    const report = await measure(host, suite, flags, dir);
    console.log(`${factLines(report.host).join("\n")}\n\n${textTable(report)}\n`);
  }
}

try {
  await main();
} catch (error) {
  process.stderr.write(`bench: ${error instanceof Error ? error.message : error}\n`);
  process.exitCode = 1;
}
