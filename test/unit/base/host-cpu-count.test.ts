import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cpus } from "node:os";
import { test } from "node:test";

test("the host's cpus are all of it, for a process that is pinned to one too", () => {
  const module = JSON.stringify(new URL("../../../src/base/host-cpu-count.ts", import.meta.url).href);
  const program = `import(${module}).then(({ hostCpuCount }) => console.log(hostCpuCount()))`;
  const argv = ["-c", "0", process.execPath, "--import", "tsx", "-e", program];
  assert.equal(Number(execFileSync("taskset", argv, { encoding: "utf8" })), cpus().length);
});
