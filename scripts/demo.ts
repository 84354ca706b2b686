/**
 * A container in a microVM, start to finish, on a containerd of our own: `npm run demo [-- COMMAND...]`. Without a
 * command the container shows its kernel, mounts and processes. The exit code is the container's.
 */
import { spawn } from "node:child_process";
import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { type Containerd, startContainerd } from "../test/harness/containerd.ts";
import { BUSYBOX_IMAGE, importBusybox } from "../test/harness/images.ts";
import { type LedgerSnapshot, leaksBetween, ownLeaks, takeSnapshot } from "../test/harness/leak-ledger.ts";
import { provideTestTemplate } from "../test/harness/make-template.ts";
import { writeShimConfig } from "../test/harness/shim-config.ts";
import { hostWorld, type World } from "../test/harness/world.ts";

const RUNTIME = "io.containerd.caisson.v2";
/** Seconds after which the teardown is reported as incomplete. */
const TEARDOWN_LIMIT_S = 10;

const BOOT_ID = "/proc/sys/kernel/random/boot_id";
/** What the container runs when no command is given. */
const tour = `#!/bin/sh
echo "uname -a:"; uname -a
echo; echo "boot id:"; cat ${BOOT_ID}
echo; echo "mounts:"; cut -d " " -f 1-4 /proc/mounts
sh -c 'sleep 5; true' &
sleep 0.2
echo; echo "processes:"
ps -o pid,ppid,args | awk '
  function depth(pid) { return pid in parent && pid != 1 ? 1 + depth(parent[pid]) : 0 }
  NR > 1 { parent[$1] = $2; order[++count] = $1; $2 = ""; line[$1] = $0 }
  END { for (i = 1; i <= count; i++) { for (d = depth(order[i]); d > 0; d--) printf "   "; print line[order[i]] } }'
`;
const tourPath = "bin/tour";

function say(text: string): void {
  process.stdout.write(`demo: ${text}\n`);
}

const seconds = (since: number) => `${((performance.now() - since) / 1000).toFixed(2)} s`;

/** Runs `action` and prints how long it took. */
async function timed<T>(what: string, action: () => Promise<T>): Promise<T> {
  const started = performance.now();
  const value = await action();
  say(`${what}: ${seconds(started)}`);
  return value;
}

interface ContainerRun {
  readonly exitCode: number;
  readonly output: string;
}

/** `ctr run` with our streams; standard output is kept besides. */
function runContainer(
  containerd: Containerd,
  argv: readonly string[],
  signal: AbortSignal,
): Promise<ContainerRun> {
  const started = performance.now();
  const id = `${containerd.world.name}-demo`;
  const [file = "", ...args] = containerd.ctrCommand([
    "run",
    "--rm",
    "--runtime",
    RUNTIME,
    BUSYBOX_IMAGE,
    id,
    ...argv,
  ]);
  const child = spawn(file, args, { stdio: ["inherit", "pipe", "inherit"] });
  const stop = () => child.kill("SIGTERM");
  signal.addEventListener("abort", stop, { once: true });
  let output = "";
  let first = "";
  child.stdout.on("data", (chunk: Buffer) => {
    first ||= seconds(started);
    output += chunk.toString();
    process.stdout.write(chunk);
  });
  return new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code) => {
      signal.removeEventListener("abort", stop);
      if (first !== "") say(`from the request to the first output: ${first}`);
      say(`container ended with exit code ${code}: ${seconds(started)} in all`);
      resolve({ exitCode: code ?? 1, output });
    });
  });
}

/** Shows both kernels; equal boot ids would mean that the container ran on the host's. */
function compareKernels(output: string): void {
  const guest = output.match(/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/)?.[0] ?? "unknown";
  const guestKernel = output.match(/^Linux \S+ (\S+)/m)?.[1] ?? "unknown";
  const host = readFileSync(BOOT_ID, "utf8").trim();
  const hostKernel = readFileSync("/proc/sys/kernel/osrelease", "utf8").trim();
  say(`host kernel  ${hostKernel}, boot id ${host}`);
  say(`guest kernel ${guestKernel}, boot id ${guest}`);
  if (guest === host) throw new Error("the container ran on the host's kernel");
}

/** Waits until nothing of ours is left. @returns what is. */
async function leftovers(world: World, before: LedgerSnapshot): Promise<string[]> {
  const deadline = performance.now() + TEARDOWN_LIMIT_S * 1000;
  for (;;) {
    const left = ownLeaks(world, leaksBetween(before, takeSnapshot(world)));
    if (left.length === 0 || performance.now() > deadline) return left;
    await sleep(50);
  }
}

async function demo(argv: readonly string[], signal: AbortSignal): Promise<number> {
  const started = performance.now();
  say("shim factory init: boots a guest as a template for others, unless there is one (a few seconds)");
  await timed("template is there", provideTestTemplate);
  await using world = hostWorld();
  const before = takeSnapshot(world);
  const config = join(world.dir, "configuration.toml");
  writeShimConfig(config);
  const containerd = await timed("containerd of our own started", () =>
    startContainerd({ world, env: { CAISSON_CONF_FILE: config } }),
  );
  let exitCode = 1;
  try {
    const entries = [{ path: tourPath, mode: 0o755, content: Buffer.from(tour) }];
    await timed("image made from busybox-static and imported", () => importBusybox(containerd, { entries }));
    say(`image ${BUSYBOX_IMAGE}, ${(statSync(join(world.dir, "busybox.tar")).size / 1e6).toFixed(1)} MB`);
    const command = argv.length > 0 ? argv : [`/${tourPath}`];
    say(`ctr run --runtime ${RUNTIME}: a microVM for: ${command.join(" ")}`);
    const result = await runContainer(containerd, command, signal);
    exitCode = result.exitCode;
    if (argv.length === 0 && exitCode === 0) compareKernels(result.output);
    if (exitCode !== 0 && result.output === "") process.stderr.write(`${containerd.logTail()}\n`);
  } finally {
    await timed("containerd stopped", () => containerd.stop());
  }
  const left = await leftovers(world, before);
  if (left.length > 0) throw new Error(`left behind, and now removed by force:\n  ${left.join("\n  ")}`);
  say("left behind: nothing (processes, mounts, files, cgroups)");
  say(`whole demo: ${seconds(started)}`);
  return exitCode;
}

const interrupt = new AbortController();
for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.once(name, () => interrupt.abort());
try {
  process.exitCode = await demo(process.argv.slice(2), interrupt.signal);
} catch (error) {
  process.stderr.write(`demo: ${error instanceof Error ? error.message : error}\n`);
  process.exitCode = 1;
}
