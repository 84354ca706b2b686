/**
 * `npm run bench:lab -- SUITE...`: suites in the lab's host, where guests run under KVM, on our package as it is installed
 * there. The results come back to .cache/bench/lab. Times in an emulated host say nothing about a real one; memory does.
 */
import { copyFileSync, mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { failure, UsageError, wholeNumber } from "../scripts/command-line.ts";
import { programOf, SUITE_ROOT, writeSuite } from "../scripts/lab/suite.ts";
import { TIMEOUT_SCALE, variantOf } from "../scripts/lab/variant.ts";
import { LabHost, labNode, labVariant } from "../test/harness/lab.ts";
import { repositoryRoot } from "../test/harness/paths.ts";
import { describeResult, runOk } from "../test/harness/run.ts";
import { forEachSuite, suitesNamed } from "./chosen.ts";
import { factLines, type Report, readReport, textTable, writeReport } from "./report.ts";
import { whole } from "./whole.ts";
import { writeWiringBundle } from "./wiring-bundle.ts";

const DEFAULT_RUNS = 3;
const RESULTS = ".cache/bench/lab";

const usage = `Usage: npm run bench:lab -- SUITE... [--runs N] [--max N]
       npm run bench:lab -- all [--runs N] [--max N]

Runs suites in a host of the lab. Tables are printed, values written to ${RESULTS}/SUITE.json, with the facts of that
host; npm run bench -- docs FILE... keeps such files as bench/results/SUITE-HOST.json, beside those of this machine.
Of several suites, one that fails does not keep the next from running.

  --runs N     how often everything is measured (default ${DEFAULT_RUNS})
  --max N      density: at most so many sandboxes, of which few fit in that host; fs: files of the tree instead of 10,000

Suites: ${whole.map(({ name }) => name).join(", ")}.

CAISSON_LAB_HOST names the host: debian13 (the default) or debian12. It has to be saved: npm run lab -- snapshot`;

const PROGRAM = "bench/in-lab.ts";
/** What suites start with node. */
const PROGRAMS_AS_THEY_ARE = ["bench/suites/net-probe.mjs", "scripts/code-cache.mjs"];
/** An emulated host takes its time. */
const SUITE_LIMIT_MS = 3_600_000;

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
  { dir, commit }: { readonly dir: string; readonly commit: string },
): Promise<Report> {
  const argv = [programOf(PROGRAM), suite, `/root/${suite}.json`, ...bounds];
  const script = `export CAISSON_TIMEOUT_SCALE=${TIMEOUT_SCALE}; exec ${labNode} ${argv.join(" ")}`;
  const result = await host.sh(script, { timeoutMs: SUITE_LIMIT_MS });
  if (result.code !== 0) throw new Error(describeResult(result));
  const file = join(dir, `${suite}.json`);
  await host.get(`/root/${suite}.json`, file);
  const report = readReport(file);
  const complete = { ...report, host: { ...report.host, commit, lab: labVariant } };
  writeReport(file, complete);
  return complete;
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      runs: { type: "string", default: String(DEFAULT_RUNS) },
      max: { type: "string" },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  if (values.help) {
    console.log(usage);
    return;
  }
  if (positionals.length === 0) throw new UsageError(usage);
  const runs = wholeNumber("runs", values.runs);
  const max = values.max === undefined ? [] : [wholeNumber("max", values.max)];
  const chosen = suitesNamed(positionals, whole);
  variantOf(labVariant);
  const dir = join(repositoryRoot, RESULTS);
  mkdirSync(dir, { recursive: true });
  // Of what is packaged now, whatever is committed while it is measured.
  const commit = (await runOk(["git", "rev-parse", "--short", "HEAD"])).stdout.trim();
  await using host = await LabHost.start();
  process.stderr.write("bench: our package and the bench into the host\n");
  await host.install(await host.putPackage());
  await putBench(host);
  await forEachSuite(chosen, async ({ name }) => {
    process.stderr.write(`bench: ${name} in the host\n`);
    const report = await measure(host, name, [runs, ...max].map(String), { dir, commit });
    console.log(`${factLines(report.host).join("\n")}\n\n${textTable(report)}\n`);
  });
}

try {
  await main();
} catch (error) {
  process.exitCode = failure("bench", error);
}
