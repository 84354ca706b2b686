/** One suite, from its runs to its result. */
import { rmSync } from "node:fs";
import { hostFacts } from "./host-facts.ts";
import { factLines, makeReport, textTable, writeReport } from "./report.ts";
import type { Suite } from "./suite.ts";

export const DEFAULT_RUNS = 5;

export interface Bounds {
  readonly runs?: number | undefined;
  readonly max?: number | undefined;
}

/** Prints the table of `suite` and writes its result to `file`. */
export async function measure(suite: Suite, file: string, { runs, max }: Bounds): Promise<void> {
  // What is there is not to be taken for the result of a suite that fails.
  rmSync(file, { force: true });
  const host = await hostFacts();
  const progress = (text: string) => void process.stderr.write(`bench: ${suite.name}: ${text}\n`);
  const measurements = await suite.run({ runs: runs ?? suite.defaultRuns ?? DEFAULT_RUNS, max, progress });
  const report = makeReport(suite.name, host, measurements);
  writeReport(file, report);
  console.log(
    `${factLines(host).join("\n")}\n\n${suite.table?.(measurements) ?? textTable(report)}\n\nJSON: ${file}`,
  );
}
