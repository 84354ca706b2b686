import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cpus } from "node:os";
import { test } from "node:test";
import { unionOf } from "../../../src/base/cpu-list.ts";

test("unionOf() gives every number once, in ranges, and takes nothing from what is no list", () => {
  assert.equal(unionOf(["0-3,8", "2-5", undefined, "", "10, 9"]), "0-5,8-10");
  assert.equal(unionOf(["3-1", "-1", "x", "1-", 7, null]), "");
  assert.equal(unionOf(["9990-9999"]), "", "no such cpu");
});

test("the host's cpus are all of it, for a process that is pinned to one too", () => {
  const module = JSON.stringify(new URL("../../../src/base/cpu-list.ts", import.meta.url).href);
  const program = `import(${module}).then(({ hostCpuCount }) => console.log(hostCpuCount()))`;
  const argv = ["-c", "0", process.execPath, "--import", "tsx", "-e", program];
  assert.equal(Number(execFileSync("taskset", argv, { encoding: "utf8" })), cpus().length);
});
