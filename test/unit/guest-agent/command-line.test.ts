import assert from "node:assert/strict";
import { test } from "node:test";
import { parseCommandLine } from "../../../guest-agent/src/boot/command-line.ts";

const defaults = { hostPort: 1024, logLevel: "warn", failPoint: "", template: false };

test("parseCommandLine() finds its keys among those of the kernel", () => {
  const line = "console=ttyS0 quiet caisson.port=70001 panic=1 caisson.log=debug\n";
  assert.deepEqual(parseCommandLine(line), { ...defaults, hostPort: 70001, logLevel: "debug" });
});

test("parseCommandLine() has defaults", () => {
  assert.deepEqual(parseCommandLine("console=ttyS0 quiet"), defaults);
  assert.deepEqual(parseCommandLine(""), defaults);
});

for (const line of [
  "caisson.port=",
  "caisson.port=0",
  "caisson.port=-1",
  "caisson.port=1.5",
  "caisson.port=x",
  "caisson.log=loud",
  "xcaisson.port=7",
  "caisson.port",
]) {
  test(`parseCommandLine() takes "${line}" as absent`, () => {
    assert.deepEqual(parseCommandLine(line), defaults);
  });
}

test("parseCommandLine() tells a guest that becomes a template", () => {
  assert.equal(parseCommandLine("quiet caisson.template").template, true);
  assert.equal(parseCommandLine("caisson.template=1").template, false);
});

test("parseCommandLine() takes the last of several", () => {
  assert.equal(parseCommandLine("caisson.port=1 caisson.port=2").hostPort, 2);
});
