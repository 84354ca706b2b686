/**
 * `npm run bench:lab -- SUITE...`: suites in the lab's host, where guests run under KVM, on our package as it is installed
 * there. The results come back to .cache/bench/lab. Times in an emulated host say nothing about a real one; memory does.
 */
import { copyFileSync, mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { programOf, SUITE_ROOT, writeSuite } from "../scripts/lab/suite.ts";
import { LabHost, labVariant } from "../test/harness/lab.ts";
import { repositoryRoot } from "../test/harness/paths.ts";
import { describeResult, runOk } from "../test/harness/run.ts";
import { factLines, type Report, readReport, textTable, writeReport } from "./report.ts";
import { whole } from "./whole.ts";
import { writeWiringBundle } from "./wiring-bundle.ts";

const usage = `Usage: npm run bench:lab -- SUITE... [--runs N] [--max N]

Suites: ${whole.map(({ name }) => name).join(", ")}.

It wants the lab's saved host: npm run lab -- snapshot`;

const PROGRAM = "bench/in-lab.ts";
/** What suites start with node. */
const PROGRAMS_AS_THEY_ARE = ["bench/suites/net-probe.mjs", "scripts/code-cache.mjs"];
/** An emulated host takes its time. */
const SUITE_LIMIT_MS = 3_600_000;
/** Of the lab's service for containerd: docs/lab.md, "Deadlines". */
const TIMEOUT_SCALE = 10;

async function putBench(host: LabHost): Promise<void> {
  const tree = join(host.scratch, "bench");
  await writeSuite([PROGRAM], tree);
  await writeWiringBundle(tree);
  mkdirSync(join(tree, "bench/suites"), { recursive: true });
  mkdirSync(join(tree, "scripts"), { recursive: true });
  const probes = readdirSync(join(repositoryRoot, "bench")).filter((file) => file.endsWith(".c"));
  for (const path of [...probes.map((name) => `bench/${name}`), ...PROGRAMS_AS_THEY_ARE])
    copyFileSync(join(repositoryRoot, path), join(tree, path));
  await host.putTree(tree, SUITE_ROOT);
}

/** Runs `suite` in `host` and brings its result here, with what the host cannot know. */
async function measure(
  host: LabHost,
  suite: string,
  bounds: readonly string[],
  dir: string,
): Promise<Report> {
  const argv = [programOf(PROGRAM), suite, `/root/${suite}.json`, ...bounds];
  const script = `export CAISSON_TIMEOUT_SCALE=${TIMEOUT_SCALE}; exec node ${argv.join(" ")}`;
  const result = await host.sh(script, { timeoutMs: SUITE_LIMIT_MS });
  if (result.code !== 0) throw new Error(describeResult(result));
  const file = join(dir, `${suite}.json`);
  await host.get(`/root/${suite}.json`, file);
  const report = readReport(file);
  const commit = (await runOk(["git", "rev-parse", "--short", "HEAD"])).stdout.trim();
  const complete = { ...report, host: { ...report.host, commit, lab: labVariant } };
  writeReport(file, complete);
  return complete;
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { runs: { type: "string", default: "3" }, max: { type: "string" } },
  });
  const unknown = positionals.find((name) => !whole.some((suite) => suite.name === name));
  if (positionals.length === 0 || unknown !== undefined) throw new Error(usage);
  const bounds = [values.runs, ...(values.max === undefined ? [] : [values.max])].map(Number).map(String);
  const dir = join(repositoryRoot, ".cache/bench/lab");
  mkdirSync(dir, { recursive: true });
  await using host = await LabHost.start();
  process.stderr.write("bench: our package and the bench into the host\n");
  await host.install(await host.putPackage());
  await putBench(host);
  for (const suite of positionals) {
    process.stderr.write(`bench: ${suite} in the host\n`);
    const report = await measure(host, suite, bounds, dir);
    console.log(`${factLines(report.host).join("\n")}\n\n${textTable(report)}\n`);
  }
}

try {
  await main();
} catch (error) {
  process.stderr.write(`bench: ${error instanceof Error ? error.message : error}\n`);
  process.exitCode = 1;
}
