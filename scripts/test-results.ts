/** What tests came to, and the lines that tell it. scripts/lab/runs.ts reads those of jobs. */

export interface TestRecord {
  readonly name: string;
  readonly outcome: "passed" | "failed" | "skipped";
  readonly durationMs: number;
  readonly error?: string;
}

export interface JobResult {
  readonly title: string;
  readonly tests: readonly TestRecord[];
  readonly output: string;
  readonly seconds: number;
}

export interface Tally {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
  /** Passed and failed. */
  readonly ran: number;
}

export function tallyOf(results: readonly JobResult[]): Tally {
  const tests = results.flatMap((result) => result.tests);
  const count = (outcome: TestRecord["outcome"]) => tests.filter((test) => test.outcome === outcome).length;
  const skipped = count("skipped");
  return { passed: count("passed"), failed: count("failed"), skipped, ran: tests.length - skipped };
}

/** "  NAME: ok (8) 1.5 s" or "  NAME: FAILED (1 of 8) 1.5 s"; skipped ones are no part of the 8 and are named behind it. */
export function jobLine(result: JobResult): string {
  const { failed, ran, skipped } = tallyOf([result]);
  const state = failed > 0 ? `FAILED (${failed} of ${ran})` : `ok (${ran})`;
  return `  ${result.title}: ${state} ${result.seconds.toFixed(1)} s${skippedNote(skipped)}`;
}

export function laneLine(name: string, results: readonly JobResult[], seconds: number): string {
  const { ran, skipped } = tallyOf(results);
  return `${name}: ${ran} tests in ${seconds.toFixed(1)} s${skippedNote(skipped)}`;
}

const skippedNote = (count: number) => (count === 0 ? "" : `, ${count} skipped`);

/** Whether a lane has shown nothing: no test of it ran. What prepares it, the job `preparation`, is none; its failure is told. */
export function nothingRan(results: readonly JobResult[], preparation?: string): boolean {
  const files = results.filter(({ title }) => title !== preparation);
  return tallyOf(results).failed === 0 && tallyOf(files).ran === 0;
}
