/** What a benchmark suite is and what it gives. */

export interface Measurement {
  readonly name: string;
  readonly unit: "ms" | "us" | "s" | "MiB" | "MiB/s" | "bytes" | "Mbit/s" | "1/s" | "count";
  /** One value per run. */
  readonly values: readonly number[];
}

export interface SuiteInit {
  readonly runs: number;
  /** A bound that a suite may take: how many of something there are at most. */
  readonly max?: number | undefined;
  /** Says what happens now; for a person who waits. */
  readonly progress: (text: string) => void;
}

export interface Suite {
  readonly name: string;
  readonly summary: string;
  /** Runs where the user says nothing, for a suite whose runs take long. */
  readonly defaultRuns?: number;
  run(init: SuiteInit): Promise<Measurement[]>;
  /** The figures as a table in Markdown, for docs/performance.md. */
  table?(measurements: readonly Measurement[]): string;
}
