import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { SandboxError } from "../../../src/base/errors.ts";
import { silentLog } from "../../../src/base/log.ts";
import { childCommand, superviseChild } from "../../../src/hypervisor/child-process.ts";

const sh = (script: string) => ({
  name: "sh",
  file: "/bin/sh",
  args: ["-c", script],
  stdout: "capture" as const,
  log: silentLog,
});

function alive(pid: number): boolean {
  try {
    return !/^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
}

test("superviseChild() reports code, output and lines of a child that ends by itself", async () => {
  const lines: string[] = [];
  const child = await superviseChild({
    ...sh("echo out; echo one >&2; printf two >&2; exit 3"),
    onStderrLine: (line) => lines.push(line),
  });
  const exit = await child.exited;
  assert.deepEqual(exit, {
    code: 3,
    signal: undefined,
    requested: false,
    description: "exited with code 3",
    stderrTail: "one\ntwo",
  });
  assert.equal(child.exit, exit);
  assert.equal(child.stdout.text(), "out\n");
  assert.deepEqual(lines, ["one", "two"]);
  const crash = await child.crashed;
  assert.equal(crash.message, "sh exited with code 3: one; two");
  assert.equal(await child.stop(), exit, "stop() after the exit returns it");
});

test("superviseChild() names a program that is missing or not executable", async () => {
  await assert.rejects(
    superviseChild({ ...sh(""), name: "virtiofsd", file: "/nonexistent/virtiofsd" }),
    (error) =>
      error instanceof SandboxError &&
      error.code === "ERR_HOST" &&
      error.message === "cannot start virtiofsd: /nonexistent/virtiofsd is not found",
  );
  await assert.rejects(superviseChild({ ...sh(""), file: "/etc/passwd" }), /\/etc\/passwd is not executable/);
});

test("a crash is told from a stop", async () => {
  const crashed = await superviseChild(sh("kill -SEGV $$"));
  const crash = await crashed.exited;
  assert.deepEqual([crash.signal, crash.requested], ["SIGSEGV", false]);
  assert.equal(crash.description, "was killed by SIGSEGV");

  const stopped = await superviseChild(sh("exec sleep 60"));
  const stop = await stopped.stop();
  assert.deepEqual([stop.signal, stop.requested], ["SIGTERM", true]);
});

test("stop() kills a child that ignores SIGTERM once the deadline passed", async () => {
  process.env.CAISSON_TIMEOUT_SCALE = "0.1";
  try {
    const child = await superviseChild(sh("trap '' TERM; echo ready; while :; do sleep 60 & wait; done"));
    while (!child.stdout.text().includes("ready")) await new Promise((done) => setTimeout(done, 5));
    const begun = performance.now();
    const exit = await child.stop();
    assert.equal(exit.signal, "SIGKILL");
    assert.ok(performance.now() - begun >= 190, "SIGTERM got its time first");
  } finally {
    delete process.env.CAISSON_TIMEOUT_SCALE;
  }
});

test("disposal ends the child", async () => {
  let pid: number;
  {
    await using child = await superviseChild(sh("exec sleep 60"));
    pid = child.pid;
    assert.ok(alive(pid));
  }
  assert.equal(alive(pid), false);
});

test("exited resolves although a grandchild keeps the output pipes open", async () => {
  const child = await superviseChild(sh("sleep 30 & echo $! ; echo bye >&2; exit 0"));
  const begun = performance.now();
  const exit = await child.exited;
  assert.ok(performance.now() - begun < 5000);
  assert.equal(exit.stderrTail, "bye\n");
  process.kill(Number(child.stdout.text()), "SIGKILL");
});

test("inherited descriptors become 3, 4, … and the environment is only what was given", async (t) => {
  const directory = mkdtempSync(join(tmpdir(), "caisson-child-"));
  t.after(() => rmSync(directory, { recursive: true }));
  writeFileSync(join(directory, "a"), "first");
  writeFileSync(join(directory, "b"), "second");
  const fds = [openSync(join(directory, "b"), "r"), openSync(join(directory, "a"), "r")];
  const child = await superviseChild({
    ...sh("cat <&4; cat <&3; echo; env"),
    inheritFds: fds,
    env: { PATH: "/usr/bin:/bin", ONLY: "this" },
  });
  for (const fd of fds) closeSync(fd);
  await child.exited;
  const [both, ...rest] = child.stdout.text().trim().split("\n");
  assert.equal(both, "firstsecond");
  const names = rest.map((line) => line.split("=")[0]);
  assert.deepEqual(names.filter((name) => name !== "PWD" && name !== "OLDPWD" && name !== "_").sort(), [
    "ONLY",
    "PATH",
  ]);
});

test("output is bounded: only the tail of a flood is kept", async () => {
  const child = await superviseChild(sh("yes 0123456789abcdef | head -c 3000000; echo END"));
  await child.exited;
  const text = child.stdout.text();
  assert.equal(text.length, 64 * 1024);
  assert.ok(text.endsWith("END\n"));
});

test("a child dies with its parent, however the parent dies", async () => {
  const program = fileURLToPath(new URL("./fixtures/parent-of-sleep.ts", import.meta.url));
  const parent = spawn(process.execPath, ["--import", "tsx", program], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const pid = await new Promise<number>((resolve) =>
    parent.stdout.once("data", (chunk: Buffer) => resolve(Number(chunk.toString()))),
  );
  assert.ok(alive(pid), "the grandchild runs");
  parent.kill("SIGKILL");
  await new Promise((resolve) => parent.once("exit", resolve));
  const deadline = performance.now() + 5000;
  while (alive(pid) && performance.now() < deadline) await new Promise((done) => setTimeout(done, 5));
  assert.equal(alive(pid), false);
});

test("childCommand() enters the network namespace first and sets the death signal last", () => {
  const command = childCommand({ file: "/x/qemu", args: ["-S"], netnsPath: "/run/netns/pod" });
  assert.match(command.file, /\/nsenter$/);
  assert.equal(command.args[0], "--net=/run/netns/pod");
  assert.deepEqual(command.args.slice(-5), ["--pdeathsig", "KILL", "--", "/x/qemu", "-S"]);
});
