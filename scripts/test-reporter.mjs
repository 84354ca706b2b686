/**
 * A node:test reporter for scripts/test.ts: one JSON line per finished test (suites do not count).
 * With CAISSON_TEST_PROGRESS=1 each test is also named on standard error as it ends.
 */
import { inspect } from "node:util";

/** The error that the test threw, as a person reads it. @param {any} error */
function describe(error) {
  const thrown = error?.code === "ERR_TEST_FAILURE" && error.cause !== undefined ? error.cause : error;
  return typeof thrown === "string" ? thrown : inspect(thrown, { depth: 4 });
}

/** @param {AsyncIterable<{ type: string, data: any }>} source */
export default async function* report(source) {
  for await (const { type, data } of source) {
    if (type !== "test:pass" && type !== "test:fail") continue;
    if (data.details?.type === "suite" && type === "test:pass") continue;
    const error = data.details?.error;
    // A suite or parent that failed only because of a test inside it is that test's failure.
    if (error?.failureType === "subtestsFailed") continue;
    const skipped = data.skip !== undefined || data.todo !== undefined;
    const outcome = skipped ? "skipped" : type === "test:pass" ? "passed" : "failed";
    const durationMs = Math.round(data.details?.duration_ms ?? 0);
    if (process.env.CAISSON_TEST_PROGRESS === "1") {
      process.stderr.write(`    ${outcome === "passed" ? "ok" : outcome} ${data.name} (${durationMs} ms)\n`);
    }
    const record = {
      name: data.name,
      outcome,
      durationMs,
      ...(error === undefined ? {} : { error: describe(error) }),
    };
    yield `${JSON.stringify(record)}\n`;
  }
}
