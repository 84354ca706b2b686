/** `npm run bench`: runs a suite, compares two results, makes documents of results. */
import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { failure, UsageError, wholeNumber } from "../scripts/command-line.ts";
import { provideTestTemplate } from "../test/harness/make-template.ts";
import { repositoryRoot } from "../test/harness/paths.ts";
import { forEachSuite, suitesNamed } from "./chosen.ts";
import { keep, writeDocuments } from "./documents.ts";
import { DEFAULT_RUNS, measure } from "./measure.ts";
import { comparison, readReport } from "./report.ts";
import type { Suite } from "./suite.ts";
import { monitorSuite } from "./suites/monitor.ts";
import { whole } from "./whole.ts";
import { writeWiringBundle } from "./wiring-bundle.ts";

const suites: readonly Suite[] = [...whole, monitorSuite];

const usage = `Usage: npm run bench -- SUITE... [--runs N] [--max N] [--json FILE]
       npm run bench -- all [--runs N] [--max N]
       npm run bench -- compare A.json B.json
       npm run bench -- docs [FILE.json...]

A suite prints a table and writes its values with the facts of the host as JSON (default .cache/bench/SUITE.json).
all is ${whole.map(({ name }) => name).join(", ")}. Of several suites, one that fails does not keep the next
from running. compare sets two such files side by side; ranges that do not overlap are marked "apart". docs
keeps such files in bench/results (what is there of all's, where none is named; those of bench:lab beside them) and makes the
tables of docs/performance.md and docs/SPECIFICATION.md from what is there. It keeps none of a commit before that of the one
in its place.

  --runs N     how often everything is measured (default ${DEFAULT_RUNS}, where a suite does not say otherwise)
  --max N      density: at most so many sandboxes; fs: files of the tree instead of 10,000

Suites:
${suites.map(({ name, summary, defaultRuns }) => `  ${name.padEnd(8)} ${summary}${defaultRuns === undefined ? "" : ` (--runs ${defaultRuns})`}`).join("\n")}`;

const resultFile = (name: string): string => join(repositoryRoot, `.cache/bench/${name}.json`);

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      runs: { type: "string" },
      max: { type: "string" },
      json: { type: "string" },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  const [verb, ...files] = positionals;
  const bound = (name: "runs" | "max") => {
    const text = values[name];
    return text === undefined ? undefined : wholeNumber(name, text);
  };
  if (values.help) console.log(usage);
  else if (verb === undefined) throw new UsageError(usage);
  else if (verb === "compare") compare(files);
  else if (verb === "docs") {
    keep(files.length > 0 ? files : whole.map(({ name }) => resultFile(name)).filter((it) => existsSync(it)));
    writeDocuments();
  } else {
    const chosen = suitesNamed(positionals, suites);
    if (values.json !== undefined && chosen.length > 1)
      throw new UsageError("--json takes the result of one suite");
    const bounds = { runs: bound("runs"), max: bound("max") };
    process.stderr.write(await provideTestTemplate());
    await writeWiringBundle(repositoryRoot);
    await forEachSuite(chosen, (suite) =>
      measure(suite, resolve(values.json ?? resultFile(suite.name)), bounds),
    );
  }
}

function compare(files: readonly string[]): void {
  const [a, b, ...more] = files;
  if (a === undefined || b === undefined || more.length > 0)
    throw new UsageError("write: npm run bench -- compare A.json B.json");
  console.log(comparison(readReport(a), readReport(b)));
}

try {
  await main();
} catch (error) {
  process.exitCode = failure("bench", error);
}
