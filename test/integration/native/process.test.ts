import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import {
  closeFd,
  pidfdExited,
  pidfdOpen,
  pidfdSignal,
  startTscMeasurement,
  waitForProcessExit,
} from "../../../src/native/index.ts";
import { assertNoneOpenedSince, openDescriptors } from "../../harness/descriptors.ts";

const addon =
  process.env.CAISSON_NATIVE ?? fileURLToPath(new URL("../../../dist/native/caisson.node", import.meta.url));

function sleeper() {
  const child = spawn("sleep", ["60"], { stdio: "ignore" });
  assert.ok(child.pid !== undefined);
  return { child, pid: child.pid };
}

/** Runs a script that uses the raw addon in a process of its own. */
function run(script: string) {
  return spawnSync(process.execPath, ["-e", `const n = require(${JSON.stringify(addon)});${script}`], {
    encoding: "utf8",
    timeout: 10_000,
  });
}

test("a pidfd tells the end of a process and never signals a later one", async () => {
  const { child, pid } = sleeper();
  const pidfd = pidfdOpen(pid);
  assert.equal(pidfdSignal(pidfd, 0), true);
  const exited = pidfdExited(pidfd, new AbortController().signal);
  assert.equal(pidfdSignal(pidfd, 9), true);
  await exited;
  if (child.signalCode === null) await once(child, "exit");
  assert.equal(pidfdSignal(pidfd, 0), false);
  await pidfdExited(pidfd, new AbortController().signal);
  closeFd(pidfd);
});

test("pidfdOpen() of no process is ESRCH", () => {
  assert.throws(() => pidfdOpen(4_194_305), { code: "ESRCH", syscall: "pidfd_open" });
  assert.throws(() => pidfdOpen(-5), { code: "EINVAL" });
});

test("pidfdExited() rejects with the reason of its signal", async () => {
  const { child, pid } = sleeper();
  const pidfd = pidfdOpen(pid);
  const abort = new AbortController();
  const waiting = pidfdExited(pidfd, abort.signal);
  abort.abort(new Error("no more time"));
  await assert.rejects(waiting, /no more time/);
  await assert.rejects(pidfdExited(pidfd, abort.signal), /no more time/);
  closeFd(pidfd);
  child.kill("SIGKILL");
  await once(child, "exit");
});

test("waitForProcessExit() waits for the end, at most its limit, and only for the right process", async () => {
  const before = openDescriptors();
  const { child, pid } = sleeper();
  let ended = false;
  child.once("exit", () => {
    ended = true;
  });
  await waitForProcessExit(pid, 30);
  await waitForProcessExit(pid, 60_000, () => false);
  assert.equal(ended, false);
  const waiting = waitForProcessExit(pid, 60_000);
  child.kill("SIGKILL");
  await waiting;
  if (!ended) await once(child, "exit");
  await waitForProcessExit(pid, 60_000);
  assertNoneOpenedSince(before);
});

test("setChildSubreaper() adopts orphans, and reap() gives their exit once", () => {
  const result = run(`
    const { spawnSync } = require("node:child_process");
    n.setChildSubreaper(true);
    const reaped = (pid) => { for (;;) { const exit = n.reap(pid); if (exit !== null) return exit; } };
    const orphan = (what) => Number(spawnSync("sh", ["-c", "sh -c '" + what + "' >/dev/null & echo $!"], { encoding: "utf8" }).stdout);
    console.log(JSON.stringify(reaped(orphan("sleep 0.1; exit 42"))));
    console.log(JSON.stringify(reaped(orphan("sleep 0.1; kill -9 $$"))));
    try { n.reap(1); } catch (error) { console.log(error.code); }
    for (const pid of [0, -1]) try { n.reap(pid); } catch (error) { console.log(error.code); }`);
  assert.equal(result.stdout, '{"code":42}\n{"signal":9}\nECHILD\nEINVAL\nEINVAL\n', result.stderr);
});

test("setProcessName() and setsid() change the process they are called in", () => {
  const result = run(`
    n.setProcessName("caisson-name-is-too-long");
    console.log(require("fs").readFileSync("/proc/self/comm", "utf8").trim());
    try { const session = n.setsid(); console.log(session === process.pid); } catch (error) { console.log(error.code); }
    try { n.setsid(); } catch (error) { console.log(error.code); }`);
  assert.equal(result.stdout, "caisson-name-is\ntrue\nEPERM\n", result.stderr);
});

test("the time stamp counter's frequency is the same twice, to some thousandths", async () => {
  const measure = async () => {
    const end = startTscMeasurement();
    await new Promise((resolve) => setTimeout(resolve, 20));
    return end() ?? 0;
  };
  const [first, second] = [await measure(), await measure()];
  assert.ok(first > 100_000, `${first} kHz`);
  assert.ok(Math.abs(first - second) < first / 500, `${first} and ${second} kHz`);
  assert.equal(startTscMeasurement()(), undefined, "too short to tell");
});
