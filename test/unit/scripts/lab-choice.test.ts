import assert from "node:assert/strict";
import { test } from "node:test";
import { choiceOf } from "../../../scripts/lab/choice.ts";

test("without a file it is the lane, with --all every suite too", () => {
  assert.deepEqual(choiceOf([], false), { arguments: ["lab"] });
  assert.deepEqual(choiceOf([], true), { arguments: ["lab", "lab-e2e"] });
  assert.throws(() => choiceOf(["test/lab"], true), /--all, or/);
});

test("what is in test/e2e runs in the host, by the file of the lab that has its directory", () => {
  assert.deepEqual(choiceOf(["test/e2e/cri/pod.test.ts", "./test/e2e/cri/volumes.test.ts"], false), {
    arguments: ["test/lab-e2e/cri.test.ts"],
    suites: ["test/e2e/cri/pod.test.ts", "test/e2e/cri/volumes.test.ts"],
  });
  assert.deepEqual(choiceOf(["test/e2e/", "test/lab/kvm.test.ts"], false), {
    arguments: ["test/lab/kvm.test.ts", "test/lab-e2e"],
    suites: ["test/e2e"],
  });
});

test("what cannot run in the host is refused by name", () => {
  assert.throws(() => choiceOf(["test/e2e/crio"], false), /crio do not run in the lab/);
  assert.throws(() => choiceOf(["test/unit"], false), /test\/unit: lab test takes/);
  assert.throws(() => choiceOf(["test/e2e/cri/none.test.ts"], false), /none\.test\.ts: lab test takes/);
});
