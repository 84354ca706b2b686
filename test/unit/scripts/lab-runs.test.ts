/** What a run of the lab's tests comes to in the record. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { recordOf, runsTable } from "../../../scripts/lab/runs.ts";

const started = new Date();

test("recordOf() reads the counts and the names of the failures", () => {
  const output = `lab:
  disk and saved host: ok (1) 0.6 s
  test/lab/kvm.test.ts: FAILED (1 of 7) 9.8 s, 2 skipped
===== test/lab/kvm.test.ts
--- packets go both ways
AssertionError: no
--- containerd's log of this test ---
--- output
lab: resuming the saved host

total time 12.0 s
7 passed, 1 failed, 2 skipped
`;
  const record = recordOf(output, started, ["lab"]);
  assert.deepEqual(
    [record.passed, record.failed, record.skipped, record.failures],
    [7, 1, 2, ["packets go both ways"]],
  );
  assert.equal(record.started, started.toISOString());
  assert.deepEqual(record.jobs, [
    { name: "disk and saved host", passed: 1, failed: 0, seconds: 1 },
    { name: "test/lab/kvm.test.ts", passed: 6, failed: 1, seconds: 10 },
  ]);
});

test("recordOf() counts a run that ended without a result as a failure", () => {
  const { passed, failed } = recordOf("lab:\n", started, ["lab"]);
  assert.deepEqual([passed, failed], [0, 1]);
});

test("runsTable() has a row for each run and a column for each file", () => {
  const run = {
    started: "",
    files: [],
    passed: 9,
    failed: 1,
    skipped: 0,
    failures: [],
    seconds: 12,
    load: 1.5,
  };
  const kvm = { name: "test/lab/kvm.test.ts", passed: 8, failed: 0, seconds: 7 };
  const commands = { name: "test/lab/commands.test.ts", passed: 1, failed: 1, seconds: 5 };
  const report = { host: "debian13", node: "", processor: "", processors: 2 };
  const table = runsTable({
    ...report,
    runs: [
      { ...run, jobs: [kvm, commands] },
      { ...run, jobs: [kvm] },
    ],
  });
  assert.deepEqual(table.split("\n"), [
    "| run | kvm.test.ts | commands.test.ts | seconds | load |",
    "| --- | --- | --- | --- | --- |",
    "| 1 | 8 passed, 7 s | **1 of 2 failed**, 5 s | 12 | 1.5 |",
    "| 2 | 8 passed, 7 s |  | 12 | 1.5 |",
  ]);
});
