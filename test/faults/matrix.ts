/** Runs scenarios one after the other on one host and keeps what came of them. */
import { FaultHost } from "./fault-host.ts";
import { applies, type Fault, faults, newContainerFails, type Outcome, runScenario } from "./scenario.ts";
import { type Step, steps } from "./steps.ts";

export interface Cell {
  readonly fault: Fault;
  readonly step: Step;
}

/** Every fault at every step where it can happen. */
export function wholeMatrix(): Cell[] {
  return steps.flatMap((step) =>
    faults.filter((fault) => applies(fault, step)).map((fault) => ({ fault, step })),
  );
}

/**
 * Runs `cells`. After each, the ledger must be even; `checkNew` says after which a new container must work too.
 * @param report is told of each outcome as it comes.
 */
export async function runCells(
  cells: readonly Cell[],
  report: (outcome: Outcome) => void,
  checkNew: (index: number) => boolean = () => true,
): Promise<Outcome[]> {
  const outcomes: Outcome[] = [];
  let host = await FaultHost.start();
  try {
    for (const [index, { fault, step }] of cells.entries()) {
      let outcome = await runScenario(host, fault, step);
      const broken = checkNew(index) ? await newContainerFails(host) : undefined;
      if (broken !== undefined) outcome = { ...outcome, problems: [...outcome.problems, broken] };
      outcomes.push(outcome);
      report(outcome);
      if (outcome.problems.length > 0) {
        await host[Symbol.asyncDispose]();
        host = await FaultHost.start();
      }
    }
  } finally {
    await host[Symbol.asyncDispose]();
  }
  return outcomes;
}
