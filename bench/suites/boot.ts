/** Starting a container: times by step, the floor, exec by ctr, sizes of the parts. */
import { mkdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { built, repositoryRoot } from "../../test/harness/paths.ts";
import { describeResult, runOk } from "../../test/harness/run.ts";
import type { ConfigOverrides } from "../../test/harness/shim-config.ts";
import { CAISSON_RUNTIME, RUNC_RUNTIME, TestHost, WITHOUT_TEMPLATE } from "../../test/harness/test-host.ts";
import { createWorld } from "../../test/harness/world.ts";
import { type ColdStart, coldStart, coldStartOfRunc } from "../cold-start.ts";
import { Collected } from "../collected.ts";
import { buildFloorInitrd, floorCommand, measureFloor } from "../floor.ts";
import { kernelCommand } from "../running-qemu.ts";
import { runningStarts } from "../running-start.ts";
import { RUNC_SHIM } from "../subjects.ts";
import type { Measurement, Suite } from "../suite.ts";

const EXECS_PER_RUN = 4;

const HELLO = "QEMU start to agent hello";
const FLOOR = "floor (QEMU start to power-off by init)";
const EXEC = "exec round trip (ctr task exec true)";
const EXEC_OF_RUNC = "exec round trip, runc";

/** What a machine begins with: a template, as where `shim factory init` has run, or the kernel. */
const ORIGINS: readonly { readonly suffix: string; readonly config: ConfigOverrides }[] = [
  { suffix: "", config: {} },
  { suffix: ", kernel started", config: WITHOUT_TEMPLATE },
];

/** Milliseconds by step that the shim logs when a guest is ready. */
interface BootRecord {
  readonly launched: number;
  readonly hello: number;
  readonly ready: number;
}

export const bootSuite: Suite = {
  name: "boot",
  summary: "start of a container by step, the floor, exec by ctr, sizes of the parts",
  async run({ runs, progress }) {
    await using host = await TestHost.start();
    const collected = new Collected();
    progress("warm-up");
    await firstOutput(host, CAISSON_RUNTIME);
    await firstOutput(host, RUNC_RUNTIME);
    for (let i = 1; i <= runs; i++) {
      progress(`run ${i} of ${runs}`);
      collected.add("shim start (the program `start`)", "ms", await shimStart(host));
      for (const { suffix, config } of ORIGINS) {
        host.configure(config);
        collected.add(`ctr run to first output${suffix}`, "ms", await firstOutput(host, CAISSON_RUNTIME));
        const boot = lastBoot(host);
        collected.add(`${HELLO}${suffix}`, "ms", boot.hello - boot.launched);
        collected.add(`request to guest ready, in the shim${suffix}`, "ms", boot.ready);
      }
      host.configure();
      collected.add("ctr run to first output, runc", "ms", await firstOutput(host, RUNC_RUNTIME));
    }
    progress("exec");
    await execs(host, runs, collected);
    const qemu = await kernelCommand(host);
    const initrd = await buildFloorInitrd(host.world.dir);
    for (let i = 1; i <= runs; i++) {
      progress(`floor ${i} of ${runs}`);
      collected.add(FLOOR, "ms", await measureFloor(floorCommand(qemu, initrd)));
    }
    await ownShare(runs, collected, progress);
    return [...collected.measurements(), ...sizes()];
  },
};

const PARTS: Readonly<Record<keyof ColdStart["parts"], string>> = {
  program: "the program `start`",
  untilQemu: "until QEMU is waited for",
  agent: "the agent until its hello",
  guestSetUp: "the guest's set-up",
  container: "the container",
  startCall: "Start",
};

/** Cold starts without containerd, and starts in a running sandbox. */
async function ownShare(runs: number, collected: Collected, progress: (text: string) => void): Promise<void> {
  await using world = await createWorld();
  for (let i = 0; i <= runs; i++) {
    progress(i === 0 ? "cold start: warm-up" : `cold start ${i} of ${runs}`);
    for (const [index, { suffix, config }] of ORIGINS.entries()) {
      const { total, own, kernel, parts } = await coldStart(world, `cold${i}-${index}`, config);
      if (i === 0) continue;
      collected.add(`cold start without containerd${suffix}`, "ms", total);
      collected.add(`the shim's own share of a cold start${suffix}`, "ms", own);
      if (kernel !== undefined) collected.add("the guest's kernel in a cold start", "ms", kernel);
      for (const part of Object.keys(PARTS) as (keyof ColdStart["parts"])[])
        collected.add(`cold start: ${PARTS[part]}${suffix}`, "ms", parts[part]);
    }
    const control = await coldStartOfRunc(world, `cold-runc${i}`, RUNC_SHIM);
    if (i > 0) collected.add("cold start without containerd, runc", "ms", control);
  }
  progress("`start` in a running sandbox");
  const { ours, runc } = await runningStarts(world, RUNC_SHIM);
  collected.add("`start` for a container of a running sandbox", "ms", ...ours);
  collected.add("`start` for a container of a running sandbox, runc", "ms", ...runc);
}

/** Milliseconds from ctr's start to the first byte of the container's output. */
function firstOutput(host: TestHost, runtime: string): Promise<number> {
  const started = performance.now();
  let first = 0;
  const onStdout = () => {
    first ||= performance.now() - started;
  };
  return host.run(["echo", "here"], { runtime, onStdout }).then((result) => {
    if (result.code !== 0 || first === 0) throw new Error(describeResult(result));
    return first;
  });
}

/** The shim's own record of the last guest that became ready. */
function lastBoot(host: TestHost): BootRecord {
  const lines = host.containerd.log().split("\n");
  const line = lines.findLast((text) => text.includes('"the guest is ready"'));
  if (line === undefined) throw new Error("the shim logged no boot");
  return JSON.parse(line) as BootRecord;
}

/** Milliseconds of the program `start`, from its start to its end, outside containerd. */
async function shimStart(host: TestHost): Promise<number> {
  const id = host.newId();
  const bundle = join(host.world.dir, id);
  mkdirSync(join(bundle, "rootfs"), { recursive: true });
  writeFileSync(join(bundle, "config.json"), '{ "ociVersion": "1.0.2", "root": { "path": "rootfs" } }');
  const flags = ["-namespace", host.world.name, "-address", host.containerd.address, "-id", id];
  const command = host.world.enter([built.shim, ...flags, "start"]);
  const result = await runOk(command, { cwd: bundle });
  const server = host.world
    .processes()
    .find(({ commandLine }) => commandLine.includes(bundle) || /^caisson-shim/.test(commandLine));
  if (server !== undefined) await endProcess(server.pid);
  await runOk(host.world.enter([built.shim, ...flags, "-bundle", bundle, "delete"]), { cwd: bundle });
  return result.durationMs;
}

/** SIGTERM, and the wait for the end. */
async function endProcess(pid: number): Promise<void> {
  process.kill(pid, "SIGTERM");
  await runOk(["tail", `--pid=${pid}`, "--follow", "/dev/null"], { timeoutMs: 10_000 });
}

/** Exec round trips in a running container. */
async function execs(host: TestHost, runs: number, collected: Collected): Promise<void> {
  const id = await host.runDetached(["sleep", "10000"]);
  const control = await host.runDetached(["sleep", "10000"], { runtime: RUNC_RUNTIME });
  await execTime(host, id);
  await execTime(host, control);
  for (let i = 0; i < runs * EXECS_PER_RUN; i++) {
    collected.add(EXEC, "ms", await execTime(host, id));
    collected.add(EXEC_OF_RUNC, "ms", await execTime(host, control));
  }
  await host.remove(control);
  await host.remove(id);
}

async function execTime(host: TestHost, id: string): Promise<number> {
  const result = await host.exec(id, ["true"]);
  if (result.code !== 0) throw new Error(describeResult(result));
  return result.durationMs;
}

function sizes(): Measurement[] {
  const bytes = (name: string, path: string): Measurement => ({
    name,
    unit: "bytes",
    values: [statSync(path).size],
  });
  return [
    bytes("initrd", built.initrd),
    bytes("agent", join(repositoryRoot, "dist/guest/agent")),
    bytes("shim server bundle", join(repositoryRoot, "dist/lib/shim-server.js")),
  ];
}
