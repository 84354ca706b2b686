/** The programs of the ebpf model, run by the kernel on a frame (BPF_PROG_TEST_RUN). Needs root. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { dropProgram, redirectProgram } from "../../../src/resources/net/bpf-program.ts";
import { repositoryRoot } from "../../harness/paths.ts";
import { runOk } from "../../harness/run.ts";

const TC_ACT_SHOT = 2;
const TC_ACT_REDIRECT = 7;
const LOOPBACK = 1;
const TIMESTAMP = 123_456_789;

let dir = "";
before(async () => {
  dir = mkdtempSync(join(tmpdir(), "caisson-program-"));
  const source = join(repositoryRoot, "test/integration/net/run-program.c");
  await runOk(["gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-o", join(dir, "run-program"), source]);
});
after(() => rmSync(dir, { recursive: true }));

/** @returns what the program returned, and the timestamp of the frame behind it. */
function runProgram(program: Uint8Array, length: number): number[] {
  const words = [String(TIMESTAMP), String(length)];
  const result = spawnSync(join(dir, "run-program"), words, { input: program, encoding: "utf8" });
  assert.equal(result.status, 0, result.stderr);
  return result.stdout.trim().split(" ").map(Number);
}

for (const length of [60, 1514]) {
  test(`a frame of ${length} bytes is redirected without its receive timestamp`, () => {
    assert.deepEqual(runProgram(redirectProgram(LOOPBACK), length), [TC_ACT_REDIRECT, 0]);
  });
}

test("the other program drops a frame and leaves it as it is", () => {
  assert.deepEqual(runProgram(dropProgram(), 60), [TC_ACT_SHOT, TIMESTAMP]);
});
