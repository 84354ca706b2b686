/** Entry point of `osbuilder`: surroundings, signals and exit status; the work is in osbuilder/. */
import { existsSync, realpathSync } from "node:fs";
import { release } from "node:os";
import { dirname, join } from "node:path";
import { UsageError } from "../../osbuilder/arguments.ts";
import { runCli } from "../../osbuilder/cli.ts";
import { describeError } from "../base/errors.ts";
import { VERSION } from "../base/version.ts";
import { runRoot } from "../persist/run-dir.ts";

/** The nearest directory above this program that holds the built agent, else the one that holds `src` or `dist`. */
function findPackageRoot(): string {
  const program = realpathSync(process.argv[1] ?? ".");
  for (let dir = dirname(program); dir !== "/"; dir = dirname(dir)) {
    if (existsSync(join(dir, "dist/guest/agent"))) return dir;
  }
  return dirname(dirname(dirname(program)));
}

async function main(): Promise<number> {
  const interrupt = new AbortController();
  for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.once(name, () => interrupt.abort(new Error(`interrupted by ${name}`)));
  }
  try {
    await runCli(
      process.argv.slice(2),
      {
        stdout: (text) => void process.stdout.write(text),
        stderr: (text) => void process.stderr.write(text),
        places: { runningRelease: release(), modulesRoot: "/lib/modules", bootDir: "/boot" },
        packageRoot: findPackageRoot(),
        runRoot: runRoot(),
        version: VERSION,
        sourceDateEpoch: process.env.SOURCE_DATE_EPOCH,
      },
      interrupt.signal,
    );
    return 0;
  } catch (error) {
    process.stderr.write(`osbuilder: ${describeError(error)}\n`);
    if (!(error instanceof UsageError)) return 1;
    process.stderr.write("Try: osbuilder --help\n");
    return 2;
  }
}

// A reader that went away (osbuilder list | head -1) is no reason to end with a stack trace.
for (const stream of [process.stdout, process.stderr]) stream.on("error", () => undefined);

void main().then((status) => {
  process.exitCode = status;
});
