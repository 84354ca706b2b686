/** The runtime below the agent (native/ and the event loop), with a program of its own instead of the agent. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath, pathToFileURL } from "node:url";

const guestAgent = fileURLToPath(new URL("../../../guest-agent", import.meta.url));
let lines: string[] = [];
let outcome: { status: number | null; stderr: string } = { status: null, stderr: "" };
let directory = "";

before(async () => {
  directory = mkdtempSync(join(tmpdir(), "caisson-runtime-"));
  const { buildGuestAgent } = (await import(pathToFileURL(join(guestAgent, "build.mjs")).href)) as {
    buildGuestAgent: (options: {
      entry: string;
      outDir: string;
      workDir: string;
    }) => Promise<{ path: string }>;
  };
  const entry = join(guestAgent, "programs/runtime-check.ts");
  const { path } = await buildGuestAgent({ entry, outDir: directory, workDir: join(directory, "work") });
  const { status, stdout, stderr } = spawnSync(path, [], { encoding: "utf8", timeout: 20_000 });
  outcome = { status, stderr };
  lines = stdout.trim().split("\n");
});
after(() => rmSync(directory, { recursive: true, force: true }));

const answers = (name: string) =>
  lines.filter((line) => line.startsWith(`${name}: `)).map((line) => line.slice(name.length + 2));

test("the program ends by itself, having said nothing on stderr", () => {
  assert.deepEqual([outcome.status, outcome.stderr, lines.at(-1)], [0, "", "done"]);
});

test("timers run in the order of their times, jobs before them, cleared ones never", () => {
  assert.deepEqual(answers("timers"), ["now job 0 10 20"]);
});

test("what is thrown or rejected without a handler is reported once, and nothing ends", () => {
  assert.deepEqual(answers("failures"), ["survived"]);
  assert.deepEqual(answers("reported"), ["thrown in a timer", "rejected and not handled"]);
});

test("a failed system call throws an Error with code, errno and syscall", () => {
  assert.deepEqual(answers("error"), ["ENOENT 2 openat | openat: No such file or directory | true"]);
  assert.deepEqual(answers("zero byte"), ["EINVAL"]);
});

test("a range outside of the buffer is refused before the system call", () => {
  assert.deepEqual(answers("range"), ["true", "true", "true", "true"]);
});

test("text is encoded and checked as Node does it", () => {
  assert.deepEqual(answers("encoded"), [Buffer.from("aä€😀\u0000z").toString("hex")]);
  assert.deepEqual(answers("decoded"), ["true"]);
  assert.deepEqual(answers("malformed"), ["false false false false false false"]);
  assert.deepEqual(answers("valid"), ["true true"]);
});

test("a watch that is closed by the callback of another is not called in the same turn", () => {
  assert.deepEqual(answers("watches"), ["1 of 2 called"]);
});

test("a forked child ends on its own and SIGCHLD tells of it", () => {
  assert.deepEqual(answers("child"), ["true 3 true -1"]);
});

test("memory and stack have limits that end in an error", () => {
  assert.match(answers("memory")[0] ?? "", /out of memory/);
  assert.match(answers("stack")[0] ?? "", /stack overflow|call stack/);
});
