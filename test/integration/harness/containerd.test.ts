/** The harness itself, with runc in the place of our shim: what the e2e suites rely on. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { after, before, test } from "node:test";
import { type Containerd, startContainerd } from "../../harness/containerd.ts";
import { BUSYBOX_IMAGE, importBusybox } from "../../harness/images.ts";
import { assertEven, leaksBetween, takeSnapshot } from "../../harness/leak-ledger.ts";
import { runOk } from "../../harness/run.ts";
import { createWorld, type World } from "../../harness/world.ts";

let world: World;
let containerd: Containerd;

before(async () => {
  world = await createWorld();
  containerd = await startContainerd({ world });
  await importBusybox(containerd);
});
after(async () => {
  await containerd?.[Symbol.asyncDispose]();
  await world?.[Symbol.asyncDispose]();
});

test("the busybox image runs and its output and exit code come back", async () => {
  const before = takeSnapshot(world, [containerd.bundles]);
  const script = "echo out; echo err >&2; exit 7";
  const result = await containerd.ctr(["run", "--rm", BUSYBOX_IMAGE, `${world.name}-a`, "sh", "-c", script]);
  assert.deepEqual([result.stdout, result.stderr, result.code], ["out\n", "err\n", 7], containerd.logTail());
  await assertEven(world, before, [containerd.bundles]);
});

test("the daemon's pid is that of containerd and a stop ends it", async () => {
  await using other = await createWorld();
  await using second = await startContainerd({ world: other });
  const pid = second.pid;
  assert.ok(other.processes().some((p) => p.pid === pid && p.commandLine.includes("containerd")));
  await second.stop("SIGKILL");
  assert.deepEqual(other.processes(), []);
  await second.start();
  assert.notEqual(second.pid, pid);
});

test("the ledger names a left process, mount, device and file", async () => {
  await using own = await createWorld();
  const before = takeSnapshot(own);
  const left = "mount -t tmpfs t /mnt; ip link add left0 type veth peer left1; touch /run/caisson/left";
  await runOk(own.enter(["sh", "-c", `${left}; setsid sleep 100 >/dev/null 2>&1 &`]));
  // The sleep may still be on its way from the shell that started it.
  const leaks = leaksBetween(before, takeSnapshot(own)).filter((line) => !line.startsWith("process: "));
  const devices = ["network device: left0", "network device: left1"];
  assert.deepEqual(leaks.sort(), ["file: /run/caisson/left", "mount: /mnt (tmpfs)", ...devices]);
  await assert.rejects(assertEven(own, before, [], 300), /process: \d+ sleep 100/);
});

test("a world ends with everything in it when its owner goes", async () => {
  const own = await createWorld();
  const [file = "", ...args] = own.enter(["sleep", "1000"]);
  const child = spawn(file, args, { stdio: "ignore" });
  const exited = new Promise((resolve) => child.once("exit", resolve));
  await new Promise((resolve) => child.once("spawn", resolve));
  await own[Symbol.asyncDispose]();
  await exited;
});

test("the scratch directory of a killed test process goes when the next world is made", async () => {
  const program = `
    import { createWorld } from ${JSON.stringify(new URL("../../harness/world.ts", import.meta.url).pathname)};
    const world = await createWorld();
    console.log(world.dir);`;
  const child = spawn(process.execPath, ["--import", "tsx", "--input-type=module", "--eval", program], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const exited = new Promise((resolve) => child.once("exit", resolve));
  const dir = await new Promise<string>((resolve) =>
    child.stdout.once("data", (chunk: Buffer) => resolve(chunk.toString().trim())),
  );
  assert.ok(existsSync(dir));
  child.kill("SIGKILL");
  await exited;
  await using next = await createWorld();
  assert.ok(existsSync(next.dir));
  assert.ok(!existsSync(dir));
});
