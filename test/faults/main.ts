/**
 * The fault matrix as a command: `npm run test:faults -- [--list] [--workers N] [--containerd VERSION] [--json FILE]
 * [FILTER …]`.
 *
 * A cell runs when its name ("qemu @ boot.hello") contains every FILTER; without any all run. Prints a line per cell as
 * it ends, then the table. Exit status 1 when a cell leaked, hung or showed something wrong. `--json` keeps the
 * outcomes for `report.ts`, which writes docs/reliability.md.
 */
import { writeFileSync } from "node:fs";
import { loadavg } from "node:os";
import { parseArgs } from "node:util";
import { hostFacts } from "../../bench/host-facts.ts";
import type { ContainerdVersion } from "../harness/containerd.ts";
import { cellName, runCells, type TimedOutcome, wholeMatrix } from "./matrix.ts";
import { matrixTable } from "./table.ts";

const versions: readonly ContainerdVersion[] = ["system", "1.7", "2.1"];

const seconds = (ms: number): string => `${(ms / 1000).toFixed(1)} s`;

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      list: { type: "boolean", default: false },
      workers: { type: "string", default: "2" },
      containerd: { type: "string", default: "system" },
      json: { type: "string" },
    },
  });
  const all = wholeMatrix();
  const cells = all.filter((cell) => positionals.every((filter) => cellName(cell).includes(filter)));
  if (cells.length === 0) throw new Error("no cell has such a name; --list shows all");
  if (values.list) {
    console.log(cells.map(cellName).join("\n"));
    return 0;
  }
  const workers = Number(values.workers);
  const version = versions.find((it) => it === values.containerd);
  if (version === undefined) throw new Error(`--containerd takes one of ${versions.join(", ")}`);
  const [loadBefore = 0] = loadavg();
  const startedAt = new Date();
  const started = performance.now();
  let done = 0;
  const outcomes = await runCells(cells, { workers, version }, (outcome) => {
    done += 1;
    const at = seconds(performance.now() - started).padStart(8);
    console.log(
      `${at} ${String(done).padStart(3)}/${cells.length} ${cellName(outcome)}: ${verdict(outcome)}`,
    );
  });
  const durationMs = Math.round(performance.now() - started);
  const bad = outcomes.filter(({ problems }) => problems.length > 0);
  console.log(`\n${matrixTable(outcomes).join("\n")}`);
  for (const outcome of bad) console.log(`\n${cellName(outcome)}\n  ${outcome.problems.join("\n  ")}`);
  console.log(`\n${outcomes.length} cells, ${bad.length} bad, ${seconds(durationMs)}`);
  if (values.json !== undefined) {
    const run = {
      startedAt,
      durationMs,
      workers,
      loadBefore,
      facts: await hostFacts(),
      outcomes,
    };
    writeFileSync(values.json, `${JSON.stringify(run, null, 2)}\n`);
  }
  return bad.length === 0 ? 0 : 1;
}

function verdict({ problems, shownMs, totalMs }: TimedOutcome): string {
  const what = problems.length === 0 ? "ok" : `BAD: ${problems.join("; ")}`;
  return `${what} (shown after ${seconds(shownMs)}, whole ${seconds(totalMs)})`;
}

try {
  process.exitCode = await main();
} catch (error) {
  console.error(`test:faults: ${error instanceof Error ? error.message : error}`);
  process.exitCode = 2;
}
