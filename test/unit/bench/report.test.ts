import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import {
  comparison,
  makeReport,
  markdownTable,
  medianOf,
  readReport,
  textTable,
  writeReport,
} from "../../../bench/report.ts";
import type { Measurement } from "../../../bench/suite.ts";

const ms = (name: string, ...values: number[]): Measurement => ({ name, unit: "ms", values });
const a = makeReport("boot", { node: "v20", cpus: 2 }, [
  ms("hello", 100, 110, 120),
  ms("gone", 1),
  ms("same", 10, 30),
]);
const b = makeReport("boot", { node: "v22", cpus: 2 }, [
  ms("hello", 50, 55, 60),
  ms("same", 20, 40),
  ms("new", 1),
]);

test("comparison() gives the ratio of the medians and marks ranges that do not overlap", () => {
  const lines = comparison(a, b).split("\n");
  const row = (name: string) => lines.find((line) => line.startsWith(name))?.split(/ {2,}/);
  assert.deepEqual(row("hello"), ["hello", "110", "55", "ms", "0.50", "120", "60", "apart"]);
  assert.deepEqual(row("same"), ["same", "20", "30", "ms", "1.50", "30", "40"]);
  assert.deepEqual(
    row("gone"),
    ["gone", "1", "", "ms", "", "1"].filter((cell) => cell !== ""),
  );
  assert.ok(lines.includes("only in B: new"));
  assert.ok(lines.includes("B differs in node: v22"), "and not in what is equal");
});

test("comparison() refuses results of different suites", () => {
  assert.throws(() => comparison(a, makeReport("exec", {}, [])), /one is of boot, the other of exec/);
});

test("a report survives its file, and what is none is refused", () => {
  const dir = mkdtempSync(join(tmpdir(), "caisson-report-"));
  try {
    const file = join(dir, "below", "boot.json");
    writeReport(file, a);
    assert.deepEqual(readReport(file), a);
    writeFileSync(file, '{ "suite": "boot" }');
    assert.throws(() => readReport(file), /is no result of a bench/);
  } finally {
    rmSync(dir, { recursive: true });
  }
});

test("the tables leave out what one value cannot have, and escape bars", () => {
  const report = makeReport("fs", {}, [
    { name: "a | b", unit: "s", values: [1.234] },
    ms("several", 1, 2, 3),
  ]);
  assert.deepEqual(markdownTable(report).split("\n"), [
    "| measure | median | p99 | unit | min | max | values |",
    "| --- | --: | --: | --- | --: | --: | --: |",
    "| a \\| b | 1.23 |  | s |  |  | 1 |",
    "| several | 2 | 3 | ms | 1 | 3 | 3 |",
  ]);
  assert.match(textTable(report), /^several +2 +3 +ms +1 +3 +3$/m);
});

test("medianOf() names the measure that is missing", () => {
  assert.equal(medianOf(a, "hello"), 110);
  assert.throws(() => medianOf(a, "bye"), /suite boot has no "bye"/);
});
