/** Entry point of `osbuilder`: surroundings, signals and exit status; the work is in osbuilder/. */
import { release } from "node:os";
import { UsageError } from "../../osbuilder/arguments.ts";
import { runCli } from "../../osbuilder/cli.ts";
import { program } from "../../osbuilder/commands.ts";
import { describeError } from "../base/errors.ts";
import { VERSION } from "../base/version.ts";
import { tryHelp } from "../cli/index.ts";
import { programRoot } from "../cli/program-root.ts";
import { runRoot } from "../persist/run-dir.ts";

async function main(argv: readonly string[]): Promise<number> {
  const interrupt = new AbortController();
  for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.once(name, () => interrupt.abort(new Error(`interrupted by ${name}`)));
  }
  try {
    await runCli(
      argv,
      {
        stdout: (text) => void process.stdout.write(text),
        stderr: (text) => void process.stderr.write(text),
        places: { runningRelease: release(), modulesRoot: "/lib/modules", bootDir: "/boot" },
        programRoot: programRoot(process.argv[1]),
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
    process.stderr.write(tryHelp(program, argv));
    return 2;
  }
}

// A reader that went away (osbuilder list | head -1) is no reason to end with a stack trace.
for (const stream of [process.stdout, process.stderr]) stream.on("error", () => undefined);

void main(process.argv.slice(2)).then((status) => {
  process.exitCode = status;
});
