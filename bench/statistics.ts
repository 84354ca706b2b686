/** Figures over several runs. */

export interface Summary {
  /** Number of values. */
  readonly runs: number;
  readonly median: number;
  /** The nearest rank: of fewer than a hundred values the greatest. */
  readonly p99: number;
  readonly min: number;
  readonly max: number;
}

/** @throws when there is no value. */
export function summarize(values: readonly number[]): Summary {
  const sorted = [...values].sort((a, b) => a - b);
  const [min, max] = [sorted[0], sorted.at(-1)];
  if (min === undefined || max === undefined) throw new Error("no values to summarize");
  const upper = sorted[Math.floor(sorted.length / 2)] ?? max;
  const lower = sorted[Math.floor((sorted.length - 1) / 2)] ?? min;
  const p99 = sorted[Math.ceil(sorted.length * 0.99) - 1] ?? max;
  return { runs: sorted.length, median: (lower + upper) / 2, p99, min, max };
}
