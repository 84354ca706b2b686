/**
 * Files of test/e2e, unchanged, inside the host: the same tests as in the emulated lane, on the installed package, with
 * KVM and the kernel's vsock. Each test of theirs is a test of this file.
 */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { programOf, SUITE_ROOT, writeSuite } from "../../scripts/lab/suite.ts";
import { LabHost } from "../harness/lab.ts";
import { describeResult } from "../harness/run.ts";

const FILES = ["test/e2e/ctr/run.test.ts", "test/e2e/ctr/stdio.test.ts", "test/e2e/cri/pod.test.ts"];
const FILE_LIMIT_MS = 2_400_000;

let started: LabHost | undefined;
before(async () => {
  started = await LabHost.start();
  await started.install(await started.putPackage());
  const tree = mkdtempSync(join(tmpdir(), "caisson-suite-"));
  try {
    await writeSuite(FILES, tree);
    await started.putTree(tree, SUITE_ROOT);
  } finally {
    rmSync(tree, { recursive: true, force: true });
  }
});
after(async () => {
  await started?.[Symbol.asyncDispose]();
});

interface TestRecord {
  readonly name: string;
  readonly outcome: "passed" | "failed" | "skipped";
  readonly durationMs: number;
  readonly error?: string;
}

for (const file of FILES) {
  test(file, async (suite) => {
    assert.ok(started !== undefined);
    const results = "/tmp/results";
    const reporter = `--test-reporter=${SUITE_ROOT}/scripts/test-reporter.mjs --test-reporter-destination=${results}`;
    const script = `cd ${SUITE_ROOT}; rm -f ${results}; node ${reporter} ${programOf(file)}`;
    const run = await started.sh(script, { timeoutMs: FILE_LIMIT_MS });
    const lines = (await started.shOk(`cat ${results}`)).split("\n").slice(0, -1);
    const records = lines.map((line) => JSON.parse(line) as TestRecord);
    assert.ok(records.length > 0, describeResult(run));
    for (const { name, outcome, durationMs, error } of records) {
      await suite.test(`${name} (${durationMs} ms in the host)`, () =>
        assert.equal(outcome, "passed", error),
      );
    }
    assert.equal(run.code, 0, describeResult(run));
  });
}
