/** `npm run bench`: runs a suite, compares two results, puts results into docs/performance.md. */
import { readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { repositoryRoot } from "../test/harness/paths.ts";
import { hostFacts } from "./host-facts.ts";
import {
  comparison,
  factLines,
  makeReport,
  readReport,
  textTable,
  withFigures,
  writeReport,
} from "./report.ts";
import type { Suite } from "./suite.ts";
import { bootSuite } from "./suites/boot.ts";
import { densitySuite } from "./suites/density.ts";
import { execSuite } from "./suites/exec.ts";
import { fsSuite } from "./suites/fs.ts";
import { memorySuite } from "./suites/memory.ts";
import { monitorSuite } from "./suites/monitor.ts";
import { netSuite } from "./suites/net.ts";
import { stdioSuite } from "./suites/stdio.ts";

const suites: readonly Suite[] = [
  bootSuite,
  densitySuite,
  execSuite,
  fsSuite,
  memorySuite,
  monitorSuite,
  netSuite,
  stdioSuite,
];

const usage = `Usage: npm run bench -- SUITE [--runs N] [--max N] [--json FILE]
       npm run bench -- compare A.json B.json
       npm run bench -- docs FILE.json...

A suite prints a table and writes its values with the facts of the host as JSON (default .cache/bench/SUITE.json).
compare sets two such files side by side; ranges that do not overlap are marked "apart". docs puts them into
docs/performance.md.

  --runs N     how often everything is measured (default 5)
  --max N      density: at most so many sandboxes; fs: files of the tree instead of 10,000

Suites:
${suites.map(({ name, summary }) => `  ${name.padEnd(8)} ${summary}`).join("\n")}`;

async function measure(suite: Suite, runs: number, max: number | undefined, file: string): Promise<void> {
  const host = await hostFacts();
  const progress = (text: string) => void process.stderr.write(`bench: ${suite.name}: ${text}\n`);
  const measurements = await suite.run({ runs, max, progress });
  const report = makeReport(suite.name, host, measurements);
  writeReport(file, report);
  console.log(
    `${factLines(host).join("\n")}\n\n${suite.table?.(measurements) ?? textTable(report)}\n\nJSON: ${file}`,
  );
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
      runs: { type: "string", default: "5" },
      max: { type: "string" },
      json: { type: "string" },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  const [verb, ...rest] = positionals;
  const suite = suites.find(({ name }) => name === verb);
  if (values.help) console.log(usage);
  else if (suite !== undefined && rest.length === 0) {
    const max = values.max === undefined ? undefined : wholeNumber("max", values.max);
    const file = resolve(values.json ?? join(repositoryRoot, `.cache/bench/${suite.name}.json`));
    await measure(suite, wholeNumber("runs", values.runs), max, file);
  } else if (verb === "compare" && rest[0] !== undefined && rest[1] !== undefined && rest.length === 2) {
    console.log(comparison(readReport(rest[0]), readReport(rest[1])));
  } else if (verb === "docs" && rest.length > 0) {
    const document = join(repositoryRoot, "docs/performance.md");
    writeFileSync(document, rest.map(readReport).reduce(withFigures, readFileSync(document, "utf8")));
  } else throw new Error(usage);
}

try {
  await main();
} catch (error) {
  process.stderr.write(`bench: ${error instanceof Error ? error.message : error}\n`);
  process.exitCode = 1;
}
