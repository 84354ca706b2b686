/** Whether a figure grows with the work done, told apart from noise and from steps that happen once. */

export interface Sample {
  /** Operations done so far. */
  readonly done: number;
  readonly bytes: number;
}

/**
 * Bytes per operation: the median slope of all pairs of samples (Theil and Sen). A third of the samples may be off, or
 * a step may come once, without an effect on it; what each operation adds is in every pair.
 * Preconditions: at least 5 samples with different `done`.
 */
export function growthPerOperation(samples: readonly Sample[]): number {
  if (samples.length < 5) throw new Error("a trend needs at least 5 samples");
  const slopes = samples
    .flatMap((a, index) => samples.slice(index + 1).map((b) => (b.bytes - a.bytes) / (b.done - a.done)))
    .sort((a, b) => a - b);
  const middle = Math.floor(slopes.length / 2);
  const upper = slopes[middle] ?? 0;
  return slopes.length % 2 === 1 ? upper : (upper + (slopes[middle - 1] ?? 0)) / 2;
}
