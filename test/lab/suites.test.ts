/**
 * Files of test/e2e, unchanged, inside the host: the same tests as in the emulated lane, on the installed package, with
 * KVM and the kernel's vsock. Each test of theirs is a test of this file. Since one takes half a minute there, those run that
 * show most; CAISSON_LAB_SUITES=all runs every test of the files, and with paths in it (spaces between) of those files.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { shellQuote } from "../../scripts/lab/ssh.ts";
import { programOf, SUITE_ROOT, writeSuite } from "../../scripts/lab/suite.ts";
import { LabHost, labNode } from "../harness/lab.ts";
import { describeResult } from "../harness/run.ts";

/** The files, and the tests of each that always run. */
const SUITES: Readonly<Record<string, readonly string[]>> = {
  "test/e2e/ctr/run.test.ts": ["credentials, limits and mounts are those that runc gives"],
  "test/e2e/ctr/stdio.test.ts": [],
  "test/e2e/task-api/cgroups.test.ts": [
    "shim, QEMU, virtiofsd and vsock backend are in the sandbox's cgroup, and nobody else",
    "a cpu quota holds on the host too, from when the guest is ready on, with the overhead",
  ],
  "test/e2e/guest/template.test.ts": [],
  "test/e2e/cri/pod.test.ts": [
    "a pod of two containers runs, is asked, logged, stopped and removed",
    "nothing of the pods is left",
  ],
  "test/e2e/cri/network.test.ts": [],
  "test/e2e/cri/security.test.ts": [],
  "test/e2e/cri/streams.test.ts": [],
  "test/e2e/cri/volumes.test.ts": [],
};
const TEMPLATE = "test/harness/make-template.ts";
const FILE_LIMIT_MS = 2_400_000;

const chosen = process.env.CAISSON_LAB_SUITES ?? "";
const whole = chosen !== "";
const files = filesOf(chosen);

function filesOf(choice: string): string[] {
  if (choice === "") return Object.keys(SUITES).filter((file) => SUITES[file]?.length !== 0);
  return choice === "all" ? Object.keys(SUITES) : choice.split(" ");
}

let started: LabHost | undefined;
before(async () => {
  started = await LabHost.start();
  await started.install(await started.putPackage());
  const tree = join(started.scratch, "suite");
  await writeSuite([TEMPLATE, ...files], tree);
  await started.putTree(tree, SUITE_ROOT);
  await started.shOk(`${labNode} ${programOf(TEMPLATE)}`);
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

/** A name as a pattern of --test-name-pattern that matches it alone. */
const exactly = (name: string) => shellQuote(`/^${name.replaceAll(/[.*+?^${}()|[\]\\]/g, "\\$&")}/`);

for (const file of files) {
  test(file, async (suite) => {
    assert.ok(started !== undefined);
    const wanted = whole ? [] : (SUITES[file] ?? []);
    const results = "/tmp/results";
    const reporter = `--test-reporter=${SUITE_ROOT}/scripts/test-reporter.mjs --test-reporter-destination=${results}`;
    const patterns = wanted.map((name) => `--test-name-pattern=${exactly(name)}`).join(" ");
    const script = `cd ${SUITE_ROOT}; rm -f ${results}; ${labNode} ${reporter} ${patterns} ${programOf(file)}`;
    const run = await started.sh(script, { timeoutMs: FILE_LIMIT_MS });
    const lines = (await started.shOk(`cat ${results}`)).split("\n").slice(0, -1);
    const records = lines.map((line) => JSON.parse(line) as TestRecord);
    // Node 20 reports as skipped what no pattern names.
    const ran = records.filter(({ outcome }) => whole || outcome !== "skipped");
    assert.ok(ran.length > 0, describeResult(run));
    for (const name of wanted)
      assert.ok(
        ran.some((record) => record.name.startsWith(name)),
        name,
      );
    for (const { name, outcome, durationMs, error } of ran) {
      await suite.test(`${name} (${durationMs} ms in the host)`, () =>
        assert.equal(outcome, "passed", error),
      );
    }
    assert.equal(run.code, 0, describeResult(run));
  });
}
