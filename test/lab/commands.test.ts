/** `lab` as a person uses it: up, sh, put, get, restore, down, and what it says when something is wrong. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { watch } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { placesOf, runDir } from "../../scripts/lab/places.ts";
import { waitForProcessExit } from "../../src/native/index.ts";
import { findProcesses, isSameProcess } from "../../src/persist/proc.ts";
import { labVariant } from "../harness/lab.ts";
import { repositoryRoot } from "../harness/paths.ts";
import { describeResult, type RunOptions, type RunResult, run } from "../harness/run.ts";

const NAME = `commands-${process.pid}`;
const LIMIT_MS = 600_000;
const node = [process.execPath, "--import", "tsx"];

interface HostRecord {
  readonly pid: number;
  readonly startTime: string;
  readonly sockets: string;
}

let scratch = "";
before(async () => {
  scratch = mkdtempSync(join(tmpdir(), "caisson-lab-commands-"));
  await labOk(["up"]);
});
after(async () => {
  await lab(["down"]);
  rmSync(scratch, { recursive: true, force: true });
});

function lab(args: readonly string[], options: RunOptions = {}, name = NAME): Promise<RunResult> {
  const argv = [...node, "scripts/lab.ts", "--host", labVariant, "--name", name, ...args];
  return run(argv, { cwd: repositoryRoot, timeoutMs: LIMIT_MS, ...options });
}

async function labOk(args: readonly string[], options: RunOptions = {}, name = NAME): Promise<string> {
  const result = await lab(args, options, name);
  assert.equal(result.code, 0, describeResult(result));
  return result.stdout;
}

const sh = (...command: string[]) => labOk(["sh", "--", ...command]);

function recordOf(name: string): HostRecord {
  return JSON.parse(readFileSync(join(runDir(labVariant, name), "record.json"), "utf8"));
}

async function isGone({ pid, startTime }: HostRecord): Promise<boolean> {
  await waitForProcessExit(pid, LIMIT_MS, () => isSameProcess(pid, startTime));
  return !isSameProcess(pid, startTime);
}

test("sh passes on input, both outputs, the exit status and each word as it is", async () => {
  const script = "cat; echo complaint >&2; exit 7";
  const input = randomBytes(100_000).toString("base64");
  const result = await lab(["sh", "--", "sh", "-c", script], { input });
  assert.deepEqual(
    [result.code, result.stdout === input, result.stderr],
    [7, true, "complaint\n"],
    describeResult(result),
  );
  const words = ["two words", "$HOME", "it's", "*", "", "a\nb"];
  assert.equal(await sh("printf", "<%s>", ...words), words.map((word) => `<${word}>`).join(""));
});

test("put and get carry files as they are, with their modes", async () => {
  const content = randomBytes(1 << 20);
  const file = join(scratch, "a file");
  writeFileSync(file, content, { mode: 0o750 });
  await labOk(["put", file, "/root/"]);
  assert.equal((await sh("stat", "-c", "%a %s", "/root/a file")).trim(), `750 ${content.length}`);
  await labOk(["get", "/root/a file", join(scratch, "back")]);
  assert.deepEqual(readFileSync(join(scratch, "back")), content);
  const missing = await lab(["get", "/root/nothing", scratch]);
  assert.equal(missing.code, 1, describeResult(missing));
  assert.match(missing.stderr, /No such file/);
});

test("restore goes back to the saved host: the same boot, without what was written since", async () => {
  const bootId = await sh("cat", "/proc/sys/kernel/random/boot_id");
  await sh("touch", "/root/mark");
  const earlier = recordOf(NAME);
  await labOk(["restore"]);
  assert.ok(await isGone(earlier));
  assert.ok(!existsSync(earlier.sockets));
  const mark = await lab(["sh", "--", "test", "-e", "/root/mark"]);
  assert.equal(mark.code, 1, describeResult(mark));
  assert.equal(await sh("cat", "/proc/sys/kernel/random/boot_id"), bootId);
  const [asked, told, answered] = [Date.now(), Number(await sh("date", "+%s")) * 1000, Date.now()];
  assert.ok(told > asked - 60_000 && told < answered + 60_000, `${asked} ${told} ${answered}`);
});

test("a second host has a port of its own; up of one that runs changes nothing", async () => {
  const other = `${NAME}-b`;
  try {
    await labOk(["up"], {}, other);
    await labOk(["sh", "--", "touch", "/root/other"], {}, other);
    const mark = await lab(["sh", "--", "test", "-e", "/root/other"]);
    assert.equal(mark.code, 1, describeResult(mark));
    const before = recordOf(NAME);
    const again = await lab(["up"]);
    assert.match(again.stderr, /a host runs already/);
    assert.deepEqual(recordOf(NAME), before);
  } finally {
    await labOk(["down"], {}, other);
  }
  assert.ok(!existsSync(runDir(labVariant, other)));
});

test("a host that dies is told, and up starts another in its place", async () => {
  const died = recordOf(NAME);
  let started = false;
  const result = await lab(["sh", "--", "sh", "-c", "echo started; exec sleep 100000"], {
    onStdout: () => {
      if (!started) process.kill(died.pid, "SIGKILL");
      started = true;
    },
  });
  assert.equal(result.code, 1, describeResult(result));
  assert.match(result.stderr, /lab: the host has ended/);
  const gone = await lab(["sh", "--", "true"]);
  assert.equal(gone.code, 1, describeResult(gone));
  assert.match(gone.stderr, /no host runs: npm run lab -- up/);
  await labOk(["up"]);
  assert.ok(!existsSync(died.sockets));
  assert.equal(await sh("echo", "alive"), "alive\n");
});

test("a test's host ends with the test's process when that is killed", async () => {
  const temporary = join(scratch, "tmp");
  mkdirSync(temporary);
  const script = `import { LabHost } from "./test/harness/lab.ts";
await LabHost.start(); console.log("started"); setInterval(() => {}, 1000);`;
  const child = spawn(node[0] ?? "", [...node.slice(1), "--input-type=module", "-e", script], {
    cwd: repositoryRoot,
    env: { ...process.env, TMPDIR: temporary },
    stdio: ["ignore", "pipe", "inherit"],
  });
  await once(child.stdout, "data", { signal: AbortSignal.timeout(LIMIT_MS) });
  const machine = recordOf(String(child.pid));
  assert.ok(isSameProcess(machine.pid, machine.startTime));
  child.kill("SIGKILL");
  assert.ok(await isGone(machine));
  // The next start removes what it wrote.
  await labOk(["restore"]);
  assert.ok(!existsSync(machine.sockets));
  assert.ok(!existsSync(runDir(labVariant, String(child.pid))));
  const left = readdirSync(temporary).filter((name) => !name.startsWith("tsx-"));
  assert.deepEqual(left, []);
});

test("a start that is killed as it begins leaves nothing that the next start does not remove", async () => {
  const { dir } = placesOf(labVariant);
  const name = `${NAME}-killed`;
  const argv = [...node.slice(1), "scripts/lab.ts", "--host", labVariant, "--name", name, "up"];
  const child = spawn(node[0] ?? "", argv, { cwd: repositoryRoot, stdio: "ignore" });
  const isOurs = (entry: string) => entry === `run-${name}` || entry.startsWith(`new-${child.pid}-`);
  for await (const { filename } of watch(dir, { signal: AbortSignal.timeout(LIMIT_MS) })) {
    if (filename !== null && isOurs(filename)) break;
  }
  child.kill("SIGKILL");
  await once(child, "exit");
  await labOk(["restore"]);
  assert.deepEqual(readdirSync(dir).filter(isOurs), []);
  const left = findProcesses((words) => words.some((word) => word.includes(runDir(labVariant, name))));
  assert.deepEqual(left, []);
});

test("what is wrong with a command line is said, and nothing is started", async () => {
  const wrong: ReadonlyArray<readonly [readonly string[], RegExp]> = [
    [["sh", "true"], /write: lab sh -- COMMAND/],
    [["put", "file"], /write: lab put FILE\.\.\. DIR/],
    [["get", "file"], /write: lab get FILE DIR/],
    [["test", "--runs", "0"], /--runs takes a whole number from 1 on/],
    [["runs"], /write: lab runs FILE/],
    [["--host", "debian7", "up"], /there is no lab "debian7"; there are debian13, debian12/],
    [["--name", "A/B", "up"], /--name A\/B: lower-case letters, digits and hyphens/],
    [["--what"], /Unknown option '--what'/],
    [["reboot"], /there is no command "reboot"/],
  ];
  for (const [args, message] of wrong) {
    const result = await lab(args);
    assert.equal(result.code, 2, describeResult(result));
    assert.match(result.stderr, message);
  }
  assert.equal((await lab([])).code, 2);
  const help = await lab(["--help"]);
  assert.equal(help.code, 0);
  for (const verb of ["build", "snapshot", "up", "restore", "sh", "put", "get", "down", "test", "runs"]) {
    assert.match(help.stdout, new RegExp(`^  ${verb} `, "m"));
  }
});

test("without root it says that it needs root", async () => {
  const argv = ["unshare", "--user", ...node, "scripts/lab.ts", "up"];
  const result = await run(argv, { cwd: repositoryRoot, timeoutMs: LIMIT_MS });
  assert.equal(result.code, 1, describeResult(result));
  assert.match(result.stderr, /the lab needs root/);
});
