import assert from "node:assert/strict";
import { test } from "node:test";
import { summarize } from "../../../bench/statistics.ts";

test("summarize() takes the middle of an odd number and the mean of the two in the middle of an even one", () => {
  assert.deepEqual(summarize([3, 1, 2], "ms"), { runs: 3, median: 2, p99: 3, min: 1, max: 3 });
  assert.equal(summarize([4, 1, 2, 3], "ms").median, 2.5);
  assert.deepEqual(summarize([7], "ms"), { runs: 1, median: 7, p99: 7, min: 7, max: 7 });
});

test("summarize() gives the nearest rank as p99, and leaves the values as they were", () => {
  const values = Array.from({ length: 200 }, (_, i) => 200 - i);
  assert.equal(summarize(values, "ms").p99, 198);
  assert.equal(values[0], 200);
  assert.equal(summarize(values.slice(0, 100), "ms").p99, 199, "of 101 to 200 the 99th");
});

test("summarize() gives as p99 of a rate what all but the lowest hundredth reach", () => {
  const values = Array.from({ length: 200 }, (_, i) => 200 - i);
  for (const unit of ["MiB/s", "Mbit/s", "1/s"] as const) {
    assert.equal(summarize(values, unit).p99, 3);
    assert.equal(summarize(values.slice(0, 99), unit).p99, 102, "of fewer than a hundred the least");
  }
  assert.equal(summarize(values.slice(0, 99), "ms").p99, 200, "and of a time the greatest");
});

test("summarize() refuses no values", () => {
  assert.throws(() => summarize([], "ms"), /no values/);
});
