/** The load test's judgement of a shim's memory, on figures whose truth is known. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { growthPerOperation } from "../../faults/growth.ts";

const KIB = 1024;
/** Repeats itself, so that a failure can be repeated: within ±1. */
const noise = (index: number): number => Math.sin(index * 12.9898) * Math.cos(index * 78.233);

const series = (bytes: (done: number, index: number) => number) =>
  Array.from({ length: 9 }, (_, index) => ({ done: index * 25, bytes: bytes(index * 25, index) }));

test("a leak of 4 KiB per operation shows through noise of 100 KiB", () => {
  const growth = growthPerOperation(series((done, i) => 9e6 + 4 * KIB * done + 100 * KIB * noise(i)));
  assert.ok(growth > 3 * KIB && growth < 5 * KIB, `${growth}`);
});

test("noise alone, a step that comes once and a single outlier are no growth", () => {
  const quiet = [
    series((_, i) => 9e6 + 100 * KIB * noise(i)),
    series((_, i) => 9e6 + (i > 1 ? 500 * KIB : 0)),
    series((_, i) => 9e6 + (i === 5 ? 3e6 : 0)),
  ];
  for (const samples of quiet) {
    const growth = growthPerOperation(samples);
    assert.ok(Math.abs(growth) < KIB, `${growth}`);
  }
});

test("too few samples are refused", () => {
  assert.throws(() => growthPerOperation(series(() => 0).slice(0, 4)), /at least 5/);
});
