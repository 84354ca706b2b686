/** The fault matrix: every fault at every step where it can happen, and what is no process killed at a step. */
import type { ContainerdVersion } from "../harness/containerd.ts";
import { FaultHost } from "./fault-host.ts";
import { applies, faults, newContainerFails, type Outcome, runScenario } from "./scenario.ts";
import { runSpecial, specials } from "./specials.ts";
import { acquireSteps, steps } from "./steps.ts";

export interface Cell {
  readonly fault: string;
  readonly step: string;
  /** Runs on a clean host and leaves it clean, or says in the outcome that it did not. Rejects for nothing. */
  readonly run: (host: FaultHost) => Promise<Outcome>;
}

export interface TimedOutcome extends Outcome {
  /** The whole cell with its checks. */
  readonly totalMs: number;
}

/** In the order of a container's life, then the specials. */
export function wholeMatrix(): Cell[] {
  const scenarios = [...steps, ...acquireSteps].flatMap((step) =>
    faults
      .filter((fault) => applies(fault, step))
      .map((fault) => ({
        fault,
        step: step.name,
        run: (host: FaultHost) => runScenario(host, fault, step),
      })),
  );
  const others = specials.map((special) => ({
    fault: special.fault,
    step: special.step,
    run: (host: FaultHost) => runSpecial(host, special),
  }));
  return [...scenarios, ...others];
}

/** @throws when the matrix has no cell of this name. */
export function cellNamed(name: string): Cell {
  const found = wholeMatrix().find((cell) => cellName(cell) === name);
  if (found === undefined) throw new Error(`the fault matrix has no cell "${name}"`);
  return found;
}

/** "fault @ step", by which cells are chosen. */
export const cellName = ({ fault, step }: { fault: string; step: string }): string => `${fault} @ ${step}`;

/**
 * Runs `cells`, each in turn on the first of `workers` hosts that is free. After each a new container must work and the
 * ledger be even; a host on which that was not so is replaced.
 * @param report is told of each outcome as it comes.
 */
export async function runCells(
  cells: readonly Cell[],
  { workers, version }: { workers: number; version?: ContainerdVersion },
  report: (outcome: TimedOutcome) => void,
): Promise<TimedOutcome[]> {
  const queue = [...cells];
  const outcomes: TimedOutcome[] = [];
  const work = async () => {
    let host: FaultHost | undefined;
    try {
      for (let cell = queue.shift(); cell !== undefined; cell = queue.shift()) {
        host ??= await FaultHost.start(version === undefined ? {} : { version });
        const outcome = await runCell(host, cell);
        outcomes.push(outcome);
        report(outcome);
        if (outcome.problems.length === 0) continue;
        await host[Symbol.asyncDispose]();
        host = undefined;
      }
    } finally {
      await host?.[Symbol.asyncDispose]();
    }
  };
  await Promise.all(Array.from({ length: Math.min(workers, cells.length) }, work));
  const order = new Map(cells.map((cell, index) => [cellName(cell), index]));
  return outcomes.sort((a, b) => (order.get(cellName(a)) ?? 0) - (order.get(cellName(b)) ?? 0));
}

/** The cell, and after it a new container. */
export async function runCell(host: FaultHost, cell: Cell): Promise<TimedOutcome> {
  const started = performance.now();
  const outcome = await cell.run(host);
  const broken = await newContainerFails(host);
  const problems = broken === undefined ? outcome.problems : [...outcome.problems, broken];
  return { ...outcome, problems, totalMs: Math.round(performance.now() - started) };
}
