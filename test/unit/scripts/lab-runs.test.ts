/** What a run of the lab's tests comes to in the record. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { recordOf } from "../../../scripts/lab/runs.ts";

const started = new Date();

test("recordOf() reads the counts and the names of the failures", () => {
  const output = `lab:
===== test/lab/kvm.test.ts
--- packets go both ways
AssertionError: no
--- output
lab: resuming the saved host

total time 12.0 s
6 passed, 1 failed, 0 skipped
`;
  const record = recordOf(output, started, ["lab"]);
  assert.deepEqual(
    [record.passed, record.failed, record.skipped, record.failures],
    [6, 1, 0, ["packets go both ways"]],
  );
  assert.equal(record.started, started.toISOString());
});

test("recordOf() counts a run that ended without a result as a failure", () => {
  const { passed, failed } = recordOf("lab:\n", started, ["lab"]);
  assert.deepEqual([passed, failed], [0, 1]);
});
