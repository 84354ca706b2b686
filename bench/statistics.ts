/** Figures over several runs. */
import type { Measurement } from "./suite.ts";

export interface Summary {
  /** Number of values. */
  readonly runs: number;
  readonly median: number;
  /** What at least 99 of 100 values do not exceed, or reach if more is better: of fewer than a hundred the worst value. */
  readonly p99: number;
  readonly min: number;
  readonly max: number;
}

/** @throws when there is no value. */
export function summarize(values: readonly number[], unit: Measurement["unit"]): Summary {
  const sorted = [...values].sort((a, b) => a - b);
  const [min, max] = [sorted[0], sorted.at(-1)];
  if (min === undefined || max === undefined) throw new Error("no values to summarize");
  const upper = sorted[Math.floor(sorted.length / 2)] ?? max;
  const lower = sorted[Math.floor((sorted.length - 1) / 2)] ?? min;
  // More is better of rates, and of nothing else.
  const worstFirst = unit.endsWith("/s") ? sorted : sorted.toReversed();
  const p99 = worstFirst[Math.floor(sorted.length / 100)] ?? max;
  return { runs: sorted.length, median: (lower + upper) / 2, p99, min, max };
}
