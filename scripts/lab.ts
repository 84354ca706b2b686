/**
 * The lab: a Debian host in an emulated machine whose kernel has KVM, vhost-vsock and vhost-net, on any machine.
 * docs/lab.md tells how it is used.
 */
import { spawnSync } from "node:child_process";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { closeFd, lockFile } from "../src/native/index.ts";
import { buildDisk } from "./lab/disk.ts";
import { LabMachine, provideSnapshot } from "./lab/machine.ts";
import { labRoot, placesOf, repositoryRoot } from "./lab/places.ts";
import { getCommand, putCommand, sshCommand } from "./lab/ssh.ts";
import { say } from "./lab/steps.ts";
import { variantOf } from "./lab/variant.ts";

const USAGE = `Usage: npm run lab -- [--host NAME] COMMAND
  build              build the host's disk, where it is not up to date
  snapshot           boot a host and save it; what is started later goes on from there
  up [--fresh]       start a host, from the saved state or, with --fresh, by a boot
  restore            like down, then up
  sh [-- COMMAND]    run COMMAND in it, or a shell; output, input and exit status are those of the command
  put FILE... DIR    copy into it
  get FILE DIR       copy out of it
  down               end it; what it wrote is lost
  test [FILE...]     build our package and run the lab's tests
--host debian13 (the default) or debian12`;

/** As long as another one may take to build everything. */
const LOCK_LIMIT_MS = 3_600_000;

function run(argv: readonly string[]): number {
  const [file = "", ...args] = argv;
  const { status, error } = spawnSync(file, args, { stdio: "inherit" });
  if (error !== undefined) throw error;
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
      host: { type: "string", default: "debian13" },
      fresh: { type: "boolean", default: false },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  const [command, ...args] = positionals;
  if (values.help || command === undefined) {
    console.log(USAGE);
    return values.help ? 0 : 2;
  }
  const variant = variantOf(values.host).name;
  const dir = placesOf(variant).run;
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
      await LabMachine.start({ variant, dir, detached: true, fresh: values.fresh });
      return 0;
    }
    case "sh": {
      const given = tokens.some((token) => token.kind === "option-terminator");
      if (args.length > 0 && !given) throw new Error("write: lab sh -- COMMAND");
      const interactive = args.length === 0 && process.stdin.isTTY === true;
      return run(sshCommand(required().ssh, args, interactive));
    }
    case "put":
      return run(putCommand(required().ssh, args.slice(0, -1), args.at(-1) ?? ""));
    case "get":
      return run(getCommand(required().ssh, args[0] ?? "", args[1] ?? "."));
    case "down":
      await running()?.stop();
      return 0;
    case "test":
      await prepare(variant);
      return run([
        process.execPath,
        "--import",
        "tsx",
        join(repositoryRoot, "scripts/test.ts"),
        ...(args.length > 0 ? args : ["lab"]),
      ]);
    default:
      throw new Error(`there is no command "${command}"\n${USAGE}`);
  }
}

try {
  process.exitCode = await main();
} catch (error) {
  console.error(`lab: ${error instanceof Error ? error.message : error}`);
  process.exitCode = 1;
}
