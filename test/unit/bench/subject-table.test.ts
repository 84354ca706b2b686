import assert from "node:assert/strict";
import { test } from "node:test";
import { subjectTable } from "../../../bench/subject-table.ts";

test("subjectTable() has a row per figure with median, p99 and range of each subject", () => {
  const table = subjectTable(
    [
      { name: "TCP, 1 stream, runc", unit: "Mbit/s", values: [300, 100, 200] },
      { name: "TCP, 1 stream, ebpf", unit: "Mbit/s", values: [30, 10, 20] },
      { name: "Wiring, ebpf", unit: "us", values: [7, 9, 8] },
    ],
    ["runc", "ebpf"],
  );
  assert.deepEqual(table.split("\n"), [
    "| median, p99 (range) | runc | ebpf |",
    "| --- | --- | --- |",
    "| TCP, 1 stream, Mbit/s | 200, 100 (100–300) | 20, 10 (10–30) |",
    "| Wiring, µs | n/a | 8, 9 (7–9) |",
  ]);
});
