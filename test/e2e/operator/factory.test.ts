/** `shim factory`: which templates are made, tried, kept and removed. Pods that go on from one: test/e2e/guest/template.test.ts. */
import assert from "node:assert/strict";
import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, beforeEach, test } from "node:test";
import { assertSetUp, built } from "../../harness/paths.ts";
import { describeResult, type RunResult, run } from "../../harness/run.ts";
import { type ConfigOverrides, writeShimConfig } from "../../harness/shim-config.ts";

const shim = join(built.bin, "shim");
/** Of a template. */
const FILES = ["basis.json", "configurations.json", "memory", "state"];
let dir = "";
let templates = "";

before(() => {
  assertSetUp();
  dir = mkdtempSync(join(tmpdir(), "caisson-test-"));
});
beforeEach(() => {
  templates = mkdtempSync(join(dir, "templates-"));
});
after(() => rmSync(dir, { recursive: true }));

/** Writes the configuration `name` of this host. @returns its path */
function configure(name: string, overrides: ConfigOverrides = {}): string {
  const path = join(dir, `${name}.toml`);
  writeShimConfig(path, { "factory.template_path": templates, ...overrides });
  return path;
}

const factory = (config: string, ...words: string[]): Promise<RunResult> =>
  run([shim, "factory", ...words, "--config", config]);

async function factoryOk(config: string, ...words: string[]): Promise<RunResult> {
  const result = await factory(config, ...words);
  assert.equal(result.code, 0, describeResult(result));
  return result;
}

interface Status {
  readonly wanted: string;
  readonly ready: boolean;
  readonly templates: readonly { readonly key: string; readonly configurations: readonly string[] }[];
}

async function status(config: string): Promise<Status> {
  return JSON.parse((await factory(config, "status", "--json")).stdout) as Status;
}

function start(config: string): ChildProcessWithoutNullStreams {
  return spawn(shim, ["factory", "init", "--config", config]);
}

/** Processes that have something to do with the templates of this test. */
function processes(): string[] {
  const lines = readdirSync("/proc").map((pid) => {
    try {
      return readFileSync(`/proc/${pid}/cmdline`, "latin1");
    } catch {
      return ""; // no process, or one that has ended
    }
  });
  return lines.filter((line) => line.includes(templates));
}

test("a template whose guest does not go on is an error that says why, and nothing is left", async () => {
  // A guest that ends when it is about to say hello: it can be saved, but no pod can have it.
  const config = configure("mute", { "hypervisor.qemu.kernel_params": "caisson.failpoint=exit:hello" });
  const result = await factory(config, "init");
  assert.equal(result.code, 1, describeResult(result));
  assert.match(result.stderr, /^shim: the guest that was saved does not go on; .*enable_template = false/m);
  assert.match(result.stderr, /the guest did not boot: /);
  assert.deepEqual([readdirSync(templates), processes()], [[], []]);
});

test("what is no template stays where templates are; two at once make one; it goes when no configuration asks for it", async () => {
  const other = join(templates, "other");
  mkdirSync(other);
  writeFileSync(join(other, "file"), "not ours");
  const [ours, theirs] = [configure("ours"), configure("theirs")];
  const results = await Promise.all([factory(ours, "init"), factory(theirs, "init")]);
  for (const result of results) assert.equal(result.code, 0, describeResult(result));
  const said = results.map(({ stderr }) => stderr).join("");
  assert.equal(said.match(/^made /gm)?.length, 1, said);
  assert.match(said, /^another shim factory is at work; waiting for it$/m);
  assert.match(said, /^the template is there: /m);
  const { wanted: first } = await status(ours);
  assert.deepEqual(readdirSync(templates).sort(), [first, "other"].sort());
  assert.deepEqual(readdirSync(join(templates, first)).sort(), FILES);

  await factoryOk(ours, "init", "--force");
  configure("ours", { "hypervisor.qemu.default_memory": 300 });
  await factoryOk(ours, "init");
  const { wanted: second, templates: both } = await status(ours);
  assert.deepEqual(Object.fromEntries(both.map(({ key, configurations }) => [key, configurations])), {
    [first]: [theirs],
    [second]: [ours],
  });

  rmSync(theirs);
  const { stderr } = await factoryOk(ours, "init");
  assert.match(stderr, /^removed 1 that no machine can use any more$/m);
  assert.deepEqual(readdirSync(templates).sort(), [second, "other"].sort());
  configure("ours", { "factory.enable_template": false });
  const off = await factory(ours, "status");
  assert.equal(off.code, 1, describeResult(off));
  assert.match(
    off.stdout,
    new RegExp(`^${second} .* [\\d.]+ MB +nobody: no configuration asks for it$`, "m"),
  );
  assert.match(off.stderr, /^new machines start their kernel: templates are off: /);
  await factoryOk(ours, "init", "--if-enabled");
  assert.deepEqual(readdirSync(templates), ["other"]);
  await factoryOk(ours, "destroy");
  assert.deepEqual(readdirSync(templates), ["other"]);
  assert.equal(readFileSync(join(other, "file"), "utf8"), "not ours");
});

for (const step of ["waiting", "trying"]) {
  test(`an interruption while ${step} is told by the status and leaves nothing`, async () => {
    const child = start(configure("any"));
    const ended = once(child, "exit") as Promise<[number | null]>;
    for await (const line of createInterface(child.stderr)) if (line.startsWith(step)) child.kill("SIGINT");
    assert.equal((await ended)[0], 130);
    assert.deepEqual([readdirSync(templates), processes()], [[], []]);
  });
}

test("one that waits for another can be interrupted", async () => {
  const config = configure("any");
  const first = start(config);
  await once(first.stderr, "data");
  const second = start(config);
  const ended = [once(first, "exit"), once(second, "exit")];
  await once(second.stderr, "data");
  second.kill("SIGINT");
  assert.deepEqual(await ended[1], [130, null]);
  first.kill("SIGINT");
  assert.deepEqual(await ended[0], [130, null]);
  assert.deepEqual(readdirSync(templates), []);
});

for (const [size, file] of [
  ["100k", "state"],
  ["8m", "memory"],
] as const) {
  test(`a disk that is full with the ${file} is named, and nothing is left`, async () => {
    const config = configure("any");
    const mount = `mount -t tmpfs -o size=${size} none ${templates}`;
    const list = `status=$?; ls -A ${templates}; exit $status`;
    const script = `${mount} && ${shim} factory init --config ${config}; ${list}`;
    const result = await run(["unshare", "-m", "sh", "-c", script]);
    assert.equal(result.code, 1, describeResult(result));
    assert.match(result.stderr, /no space left on device|is its disk full/i, describeResult(result));
    assert.match(result.stderr, new RegExp(templates), describeResult(result));
    assert.equal(result.stdout, "");
  });
}
