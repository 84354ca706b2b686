/** What scripts/test.ts counts and prints. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { type JobResult, jobLine, laneLine, nothingRan, tallyOf } from "../../../scripts/test-results.ts";

type Outcome = JobResult["tests"][number]["outcome"];

const job = (title: string, ...outcomes: Outcome[]): JobResult => ({
  title,
  tests: outcomes.map((outcome) => ({ name: outcome, outcome, durationMs: 0 })),
  output: "",
  seconds: 1.5,
});
const prepared = job("disk and saved host", "passed");

test("a skipped test is none that ran", () => {
  const results = [prepared, job("a.test.ts", "passed", "skipped"), job("b.test.ts", "failed")];
  assert.deepEqual(tallyOf(results), { passed: 2, failed: 1, skipped: 1, ran: 3 });
});

test("jobLine() and laneLine() count what ran and name what was skipped apart", () => {
  const mixed = job("a.test.ts", "passed", "skipped", "skipped");
  const bad = job("b.test.ts", "failed", "passed", "skipped");
  assert.equal(jobLine(prepared), "  disk and saved host: ok (1) 1.5 s");
  assert.equal(jobLine(mixed), "  a.test.ts: ok (1) 1.5 s, 2 skipped");
  assert.equal(jobLine(bad), "  b.test.ts: FAILED (1 of 2) 1.5 s, 1 skipped");
  assert.equal(laneLine("lab", [prepared, mixed, bad], 453), "lab: 4 tests in 453.0 s, 3 skipped");
  assert.equal(laneLine("unit", [prepared], 2), "unit: 1 tests in 2.0 s");
});

test("a lane shows nothing when all its tests were skipped, whatever prepared it", () => {
  const skipped = job("a.test.ts", "skipped", "skipped");
  assert.ok(nothingRan([]));
  assert.ok(nothingRan([skipped]));
  assert.ok(nothingRan([prepared, skipped], prepared.title));
  assert.ok(!nothingRan([skipped, job("b.test.ts", "passed")]));
  assert.ok(!nothingRan([prepared, job("b.test.ts", "failed")], prepared.title));
});

test("a lane whose preparation failed has failed by that already", () => {
  assert.ok(!nothingRan([job("template", "failed")], "template"));
});
