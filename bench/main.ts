/** `npm run bench`: runs a suite, compares two results, makes documents of results. */
import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { provideTestTemplate } from "../test/harness/make-template.ts";
import { repositoryRoot } from "../test/harness/paths.ts";
import { keep, writeDocuments } from "./documents.ts";
import { type Bounds, DEFAULT_RUNS, measure } from "./measure.ts";
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
keeps such files in bench/results (what is there of all's, where none is named) and makes the tables of docs/performance.md and
docs/SPECIFICATION.md from what is there.

  --runs N     how often everything is measured (default ${DEFAULT_RUNS}, where a suite does not say otherwise)
  --max N      density: at most so many sandboxes; fs: files of the tree instead of 10,000

Suites:
${suites.map(({ name, summary, defaultRuns }) => `  ${name.padEnd(8)} ${summary}${defaultRuns === undefined ? "" : ` (--runs ${defaultRuns})`}`).join("\n")}`;

const resultFile = (name: string): string => join(repositoryRoot, `.cache/bench/${name}.json`);

/** One after the other. @throws when some failed, naming each that did. */
async function measureEach(chosen: readonly Suite[], bounds: Bounds): Promise<void> {
  const failed: string[] = [];
  for (const suite of chosen) {
    const begun = performance.now();
    await measure(suite, resultFile(suite.name), bounds).catch((error: unknown) => {
      failed.push(`${suite.name}: ${error instanceof Error ? error.message : error}`);
    });
    process.stderr.write(`bench: ${suite.name} took ${Math.round((performance.now() - begun) / 1000)} s\n`);
  }
  if (failed.length > 0) throw new Error(failed.join("\n"));
}

/** The suites of these names, undefined where one is none. */
function suitesNamed(names: readonly string[]): readonly Suite[] | undefined {
  if (names.length === 1 && names[0] === "all") return whole;
  const chosen = names.flatMap((name) => suites.find((suite) => suite.name === name) ?? []);
  return chosen.length > 0 && chosen.length === names.length ? chosen : undefined;
}

function wholeNumber(name: string, text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1) throw new Error(`--${name} takes a whole number from 1 on`);
  return value;
}

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
  const [verb, ...rest] = positionals;
  const bound = (name: "runs" | "max") => {
    const text = values[name];
    return text === undefined ? undefined : wholeNumber(name, text);
  };
  const bounds = { runs: bound("runs"), max: bound("max") };
  const chosen = suitesNamed(positionals);
  const [only] = chosen ?? [];
  if (!values.help && chosen !== undefined) {
    process.stderr.write(await provideTestTemplate());
    await writeWiringBundle(repositoryRoot);
  }
  if (values.help) console.log(usage);
  else if (only !== undefined && chosen?.length === 1)
    await measure(only, resolve(values.json ?? resultFile(only.name)), bounds);
  else if (chosen !== undefined && values.json === undefined) await measureEach(chosen, bounds);
  else if (verb === "compare" && rest[0] !== undefined && rest[1] !== undefined && rest.length === 2)
    console.log(comparison(readReport(rest[0]), readReport(rest[1])));
  else if (verb === "docs") {
    keep(
      rest.length > 0 ? rest : whole.map(({ name }) => resultFile(name)).filter((file) => existsSync(file)),
    );
    writeDocuments();
  } else throw new Error(usage);
}

try {
  await main();
} catch (error) {
  process.stderr.write(`bench: ${error instanceof Error ? error.message : error}\n`);
  process.exitCode = 1;
}
