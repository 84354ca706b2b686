/** Entry point of `shim`, the operator's tool: surroundings, signals and exit status; the work is in src/operator. */
import { constants } from "node:os";
import { VERSION } from "../base/version.ts";
import { painter } from "../cli/index.ts";
import { programRoot } from "../cli/program-root.ts";
import { Interrupted } from "../operator/host.ts";
import { runShimCommand } from "../operator/run.ts";

const interrupt = new AbortController();

async function main(): Promise<number> {
  for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.once(name, () => interrupt.abort(new Interrupted(128 + constants.signals[name])));
  }
  return await runShimCommand(process.argv.slice(2), {
    stdout: (text) => void process.stdout.write(text),
    stderr: (text) => void process.stderr.write(text),
    // Opening standard input costs and can fail; most commands never touch it.
    streams: {
      get stdin() {
        return process.stdin;
      },
      get stdout() {
        return process.stdout;
      },
      get stderr() {
        return process.stderr;
      },
    },
    paint: painter(process.stdout.isTTY === true, process.env),
    env: process.env,
    programRoot: programRoot(process.argv[1]),
    version: VERSION,
    signal: interrupt.signal,
  });
}

// A reader that went away (shim list | head -1) is no reason to end with a stack trace.
for (const stream of [process.stdout, process.stderr]) stream.on("error", () => undefined);

void main().then((status) => {
  process.exitCode = status;
  // A thread that waits for a lock cannot be called back.
  if (interrupt.signal.aborted) process.exit();
});
