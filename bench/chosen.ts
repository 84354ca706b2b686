/** The suites that a command line names, and their runs. */
import { UsageError } from "../scripts/command-line.ts";
import type { Suite } from "./suite.ts";
import { whole } from "./whole.ts";

/** Those of `offered` with these names, each once; "all" is those of the documents. @throws UsageError naming what is none */
export function suitesNamed(names: readonly string[], offered: readonly Suite[]): readonly Suite[] {
  const named = (name: string): readonly Suite[] => {
    if (name === "all") return whole;
    const suite = offered.find((it) => it.name === name);
    if (suite !== undefined) return [suite];
    const there = ["all", ...offered.map((it) => it.name)].join(", ");
    throw new UsageError(`there is no suite "${name}"; there are ${there}`);
  };
  return [...new Set(names.flatMap(named))];
}

/** Measures one after the other. @throws when some failed, naming each that did */
export async function forEachSuite(
  suites: readonly Suite[],
  measure: (suite: Suite) => Promise<void>,
): Promise<void> {
  const failed: string[] = [];
  for (const suite of suites) {
    const begun = performance.now();
    await measure(suite).catch((error: unknown) => {
      failed.push(`${suite.name}: ${error instanceof Error ? error.message : error}`);
    });
    process.stderr.write(`bench: ${suite.name} took ${Math.round((performance.now() - begun) / 1000)} s\n`);
  }
  if (failed.length > 0) throw new Error(failed.join("\n"));
}
