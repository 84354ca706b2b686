/**
 * The lab: a Debian host in an emulated machine whose kernel has KVM, vhost-vsock and vhost-net, on any machine.
 * docs/lab.md tells how it is used.
 */
import { spawnSync } from "node:child_process";
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { closeFd, lockFile } from "../src/native/index.ts";
import { failure, UsageError, wholeNumber } from "./command-line.ts";
import { choiceOf } from "./lab/choice.ts";
import { buildDisk } from "./lab/disk.ts";
import { LabMachine, provideSnapshot } from "./lab/machine.ts";
import { niceSession } from "./lab/niceness.ts";
import { labRoot, runDir } from "./lab/places.ts";
import { type RunsReport, runsTable, testRuns } from "./lab/runs.ts";
import { getCommand, putCommand, sshCommand } from "./lab/ssh.ts";
import { say } from "./lab/steps.ts";
import { variantOf } from "./lab/variant.ts";

const USAGE = `Usage: npm run lab -- [--host KIND] [--name NAME] COMMAND
  build              build the host's disk, where it is not up to date
  snapshot           boot a host and save it; what is started later goes on from there
  up [--fresh]       start a host, from the saved state or, with --fresh, by a boot
  restore            like down, then up
  sh [-- COMMAND]    run COMMAND in it, or a shell; output, input and exit status are those of the command
  put FILE... DIR    copy into it
  get FILE DIR       copy out of it
  down               end it; what it wrote is lost
  test [--runs N] [--json FILE] [--all | FILE...]
                     build our package and run the lab's tests (the lane of npm test); --all: and every test of test/e2e
                     in the host, which takes more than an hour; or those of FILE... in test/lab or test/e2e. N times; the
                     FILE of --json gets a record of each run
  runs FILE          such a record as a table
--host debian13 (the default, or what CAISSON_LAB_HOST says) or debian12
--name default; hosts of different names run side by side`;

/** As long as another one may take to build everything. */
const LOCK_LIMIT_MS = 3_600_000;

/** What ssh and scp end with when there is no connection (ssh(1)); a command may end with it, too. */
const NO_CONNECTION = 255;

/** Runs a command that goes into the host. @throws when the host has ended meanwhile */
async function enter(machine: LabMachine, argv: readonly string[]): Promise<number> {
  const [file = "", ...args] = argv;
  const { status, error } = spawnSync(file, args, { stdio: "inherit" });
  if (error !== undefined) throw error;
  if (status === NO_CONNECTION && !machine.connected && (await machine.ended()))
    throw new Error("the host has ended");
  return status ?? 1;
}

/** Everything a start needs. One at a time in this checkout: another one waits. */
async function prepare(variant: string, withSnapshot = true): Promise<void> {
  mkdirSync(labRoot, { recursive: true });
  const lock = await lockFile(join(labRoot, "lock"), AbortSignal.timeout(LOCK_LIMIT_MS));
  try {
    await buildDisk(variantOf(variant));
    if (withSnapshot) await provideSnapshot(variant);
  } finally {
    closeFd(lock);
  }
}

async function main(): Promise<number> {
  const { values, positionals, tokens } = parseArgs({
    allowPositionals: true,
    tokens: true,
    options: {
      host: { type: "string", default: process.env.CAISSON_LAB_HOST ?? "debian13" },
      name: { type: "string", default: "default" },
      runs: { type: "string", default: "1" },
      json: { type: "string" },
      all: { type: "boolean", default: false },
      fresh: { type: "boolean", default: false },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  const [command, ...args] = positionals;
  if (values.help || command === undefined) {
    console.log(USAGE);
    return values.help ? 0 : 2;
  }
  if (process.getuid?.() !== 0)
    throw new Error("the lab needs root: debootstrap, mounts, and the key of its hosts");
  const variant = variantOf(values.host).name;
  if (!/^[a-z0-9-]+$/.test(values.name))
    throw new UsageError(`--name ${values.name}: lower-case letters, digits and hyphens`);
  const dir = runDir(variant, values.name);
  const running = () => LabMachine.find(variant, dir);
  const required = () => {
    const machine = running();
    if (machine === undefined) throw new Error("no host runs: npm run lab -- up");
    return machine;
  };
  switch (command) {
    case "build":
      await prepare(variant, false);
      return 0;
    case "snapshot":
      await prepare(variant);
      return 0;
    case "up":
    case "restore": {
      if (command === "restore") await running()?.stop();
      else if (running() !== undefined) {
        say("a host runs already");
        return 0;
      }
      await prepare(variant, !values.fresh);
      await LabMachine.start({ variant, dir, detached: true, ...(values.fresh ? { boot: "boot" } : {}) });
      return 0;
    }
    case "sh": {
      const given = tokens.some((token) => token.kind === "option-terminator");
      if (args.length > 0 && !given) throw new UsageError("write: lab sh -- COMMAND");
      const interactive = args.length === 0 && process.stdin.isTTY === true;
      const machine = required();
      return await enter(machine, sshCommand(machine.ssh, args, interactive));
    }
    case "put": {
      const directory = args.pop();
      if (directory === undefined || args.length === 0) throw new UsageError("write: lab put FILE... DIR");
      const machine = required();
      return await enter(machine, putCommand(machine.ssh, args, directory));
    }
    case "get": {
      const [file, directory, ...more] = args;
      if (file === undefined || directory === undefined || more.length > 0)
        throw new UsageError("write: lab get FILE DIR");
      const machine = required();
      return await enter(machine, getCommand(machine.ssh, file, directory));
    }
    case "down":
      await running()?.stop();
      return 0;
    case "test": {
      const choice = choiceOf(args, values.all);
      const count = wholeNumber("runs", values.runs);
      await prepare(variant);
      return await testRuns({
        variant,
        choice,
        count,
        ...(values.json === undefined ? {} : { report: values.json }),
      });
    }
    case "runs": {
      const [file] = args;
      if (file === undefined) throw new UsageError("write: lab runs FILE");
      console.log(runsTable(JSON.parse(readFileSync(file, "utf8")) as RunsReport));
      return 0;
    }
    default:
      throw new UsageError(`there is no command "${command}"\n${USAGE}`);
  }
}

// `nice npm run lab` shall be nice to everybody, and so shall the preparation of the tests.
niceSession(process.pid);
try {
  process.exitCode = await main();
} catch (error) {
  process.exitCode = failure("lab", error);
}
