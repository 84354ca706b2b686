/**
 * Benchmarks: `npm run bench -- SUITE [--runs N] [--json FILE]`. Prints a table, and writes the figures with the facts
 * of the host as JSON (default .cache/bench/SUITE.json).
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { repositoryRoot } from "../test/harness/paths.ts";
import { hostFacts } from "./host-facts.ts";
import { summarize } from "./statistics.ts";
import type { Measurement, Suite } from "./suite.ts";
import { bootSuite } from "./suites/boot.ts";
import { monitorSuite } from "./suites/monitor.ts";
import { netSuite } from "./suites/net.ts";

const suites: readonly Suite[] = [bootSuite, monitorSuite, netSuite];
const MIN_RUNS = 5;

/** Decimals by unit: times to a tenth of a millisecond are noise. */
const decimals = { ms: 0, MiB: 1, bytes: 0, us: 0, "Mbit/s": 0, "1/s": 0, count: 0 } as const;

function table(measurements: readonly Measurement[]): string {
  const rows = measurements.map(({ name, unit, values }) => {
    const { runs, median, min, max } = summarize(values);
    const show = (value: number) => value.toFixed(decimals[unit]);
    return [name, show(median), unit, runs > 1 ? show(min) : "", runs > 1 ? show(max) : "", String(runs)];
  });
  const all = [["measure", "median", "unit", "min", "max", "runs"], ...rows];
  const widths = all[0]?.map((_, column) => Math.max(...all.map((row) => row[column]?.length ?? 0))) ?? [];
  const line = (row: string[]) =>
    row
      .map((cell, i) => (i === 0 || i === 2 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0)))
      .join("  ")
      .trimEnd();
  return all.map(line).join("\n");
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { runs: { type: "string", default: "5" }, json: { type: "string" } },
  });
  const suite = suites.find(({ name }) => name === positionals[0]);
  if (suite === undefined || positionals.length !== 1) {
    const known = suites.map(({ name, summary }) => `  ${name}  ${summary}`).join("\n");
    throw new Error(`usage: npm run bench -- SUITE [--runs N] [--json FILE]\nsuites:\n${known}`);
  }
  const runs = Number(values.runs);
  if (!Number.isInteger(runs) || runs < MIN_RUNS)
    throw new Error(`--runs takes a whole number from ${MIN_RUNS} on`);
  const host = await hostFacts();
  const progress = (text: string) => void process.stderr.write(`bench: ${suite.name}: ${text}\n`);
  const measurements = await suite.run({ runs, progress });
  const file = resolve(values.json ?? join(repositoryRoot, `.cache/bench/${suite.name}.json`));
  const results = measurements.map((it) => ({ ...it, summary: summarize(it.values) }));
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, `${JSON.stringify({ suite: suite.name, host, results }, null, 2)}\n`);
  console.log(
    `${Object.entries(host)
      .map(([name, value]) => `${name}: ${value}`)
      .join("\n")}\n`,
  );
  console.log(`${suite.table?.(measurements) ?? table(measurements)}\n\nJSON: ${file}`);
}

try {
  await main();
} catch (error) {
  process.stderr.write(`bench: ${error instanceof Error ? error.message : error}\n`);
  process.exitCode = 1;
}
