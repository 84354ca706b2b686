/**
 * Files of test/e2e, unchanged, inside a host of the lab: the same tests as in the emulated lane, on the installed package,
 * with KVM and the kernel's vsock. Each test of theirs is a test of the file that calls this; half a minute each.
 */
import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { PassThrough } from "node:stream";
import { after, before, test } from "node:test";
import { SUITES_VARIABLE } from "../../scripts/lab/choice.ts";
import { shellQuote } from "../../scripts/lab/ssh.ts";
import { programOf, SUITE_ROOT, writeSuite } from "../../scripts/lab/suite.ts";
import type { TestRecord } from "../../scripts/test-results.ts";
import { LabHost, labNode } from "./lab.ts";
import { repositoryRoot } from "./paths.ts";
import { describeResult } from "./run.ts";
import { type ConfigOverrides, TEST_CONFIG_VARIABLE } from "./shim-config.ts";

const TEMPLATE = "test/harness/make-template.ts";
/** Of one file. */
const LIMIT_MS = 2_400_000;

/** What else would be a slower way for the same result must not be taken in silence. */
const CONFIG: ConfigOverrides = {
  "hypervisor.qemu.accel": "kvm",
  "hypervisor.qemu.vsock_backend": "vhost",
};

/** Names of tests by file (relative to the repository), or "all" of its tests. */
export type Wanted = Readonly<Record<string, readonly string[] | "all">>;

/**
 * Every test of the files in test/e2e/`name`, or of those that the environment names, but those of `except`, which are named with what keeps them from running
 * there.
 */
export function directoryInLab(name: string, except: Readonly<Record<string, string>> = {}): void {
  const dir = `test/e2e/${name}`;
  const files = readdirSync(join(repositoryRoot, dir)).filter((file) => file.endsWith(".test.ts"));
  for (const file of Object.keys(except)) assert.ok(files.includes(file), `${dir} has no ${file}`);
  const choice = process.env[SUITES_VARIABLE]?.split(" ") ?? [dir];
  for (const [file, why] of Object.entries(except))
    if (choice.includes(`${dir}/${file}`)) throw new Error(`not in the lab: ${dir}/${file} ${why}`);
  const wanted = files
    .filter((file) => !(file in except))
    .map((file) => `${dir}/${file}`)
    .filter((file) => choice.some((path) => file === path || file.startsWith(`${path}/`)));
  testsInLab(Object.fromEntries(wanted.map((file) => [file, "all"])));
}

/** The tests that `wanted` names, in one host. */
export function testsInLab(wanted: Wanted): void {
  const files = Object.keys(wanted);
  let host: LabHost | undefined;
  before(async () => {
    host = await LabHost.start();
    await host.install(await host.putPackage());
    const tree = join(host.scratch, "suite");
    await writeSuite([TEMPLATE, ...files], tree);
    await host.putTree(tree, SUITE_ROOT);
    await host.shOk(`${labNode} ${programOf(TEMPLATE)}`);
  });
  after(async () => {
    await host?.[Symbol.asyncDispose]();
  });
  for (const [file, names] of Object.entries(wanted)) {
    test(file, async (suite) => {
      assert.ok(host !== undefined);
      const { lines, ended } = runFile(host, file, names);
      const ran: TestRecord[] = [];
      const shown: string[] = [];
      // As they come, so that whoever waits sees them.
      for await (const line of lines) {
        if (!line.startsWith(RECORD)) {
          shown.push(line);
          continue;
        }
        const record = JSON.parse(line) as TestRecord;
        const { name, outcome, durationMs, error } = record;
        const skip = outcome === "skipped";
        // Node 20 reports as skipped what no pattern names.
        if (skip && names !== "all") continue;
        ran.push(record);
        await suite.test(`${name} (${durationMs} ms in the host)`, { skip }, () =>
          assert.equal(outcome, "passed", error),
        );
      }
      const result = await ended;
      const described = `${describeResult(result)}\n${shown.join("\n")}`;
      assert.ok(ran.length > 0, described);
      for (const name of names === "all" ? [] : names)
        assert.ok(
          ran.some((record) => record.name.startsWith(name)),
          name,
        );
      // The file may end with an error although all its tests passed.
      if (ran.every(({ outcome }) => outcome !== "failed")) assert.equal(result.code, 0, described);
    });
  }
}

/** How a line of the reporter begins; a program may print others. */
const RECORD = '{"name":';

/** Starts the tests of a file: the lines that it prints, and its end. */
function runFile(host: LabHost, file: string, names: readonly string[] | "all") {
  const reporter = `--test-reporter=${SUITE_ROOT}/scripts/test-reporter.mjs --test-reporter-destination=stdout`;
  const patterns = names === "all" ? [] : names.map((name) => `--test-name-pattern=${exactly(name)}`);
  const command = [labNode, reporter, ...patterns, programOf(file)].join(" ");
  const config = `${TEST_CONFIG_VARIABLE}=${shellQuote(JSON.stringify(CONFIG))}`;
  const output = new PassThrough();
  const ended = host
    .sh(`cd ${SUITE_ROOT}; ${config} ${command}`, {
      timeoutMs: LIMIT_MS,
      onStdout: (chunk) => void output.write(chunk),
    })
    .finally(() => output.end());
  ended.catch(() => undefined); // awaited behind the lines
  return { lines: createInterface({ input: output }), ended };
}

/** A name as a pattern of --test-name-pattern that matches it alone. */
const exactly = (name: string) => shellQuote(`/^${name.replaceAll(/[.*+?^${}()|[\]\\]/g, "\\$&")}/`);
