/**
 * The shim as containerd and CRI-O run it: `start`, `delete`, `-v`, `-info`. Each verb loads only what it needs; the
 * server that lives as long as the sandbox is a program of its own (shim-server.ts). In front of this program stands one
 * in C (src/native/launcher), which answers an ordinary `start` itself and hands over everything else.
 */
import fs from "node:fs";
import path from "node:path";
import { describeError } from "../base/errors.ts";
import { VERSION } from "../base/version.ts";
import { parseShimArguments } from "../shim/arguments.ts";

const NAME = "containerd-shim-caisson-v2";
const RUNTIME_NAME = "io.containerd.caisson.v2";

async function main(): Promise<void> {
  const args = parseShimArguments(process.argv.slice(2));
  if (args.version) {
    process.stdout.write(`${NAME}:\n  Version:  ${VERSION}\n`);
    return;
  }
  if (args.info) {
    const { readStdin } = await import("../shim/read-stdin.ts");
    const { runtimeInfo } = await import("../shim/runtime-info.ts");
    process.stdout.write(runtimeInfo(RUNTIME_NAME, readStdin()));
    return;
  }
  switch (args.action) {
    case "start": {
      const { startShim } = await import("../shim/start.ts");
      const { readStdin } = await import("../shim/read-stdin.ts");
      const serverScript = path.join(import.meta.dirname, "../lib/shim-server.cjs");
      const answer = await startShim(args, { serverScript, cwd: process.cwd(), stdin: readStdin() });
      fs.writeSync(1, typeof answer === "string" ? Buffer.from(answer) : answer);
      process.exit(0); // leaves the listening socket to the server
      break;
    }
    case "delete": {
      const { deleteShim } = await import("../shim/delete.ts");
      const { stderrLog } = await import("../shim/stderr-log.ts");
      process.stdout.write(await deleteShim(args, process.cwd(), stderrLog));
      break;
    }
    default:
      throw new Error(
        `expected "start" or "delete"; this program is run by containerd or CRI-O (runtime type ${RUNTIME_NAME})`,
      );
  }
}

main().catch((error: unknown) => {
  process.stderr.write(`${NAME}: ${describeError(error)}\n`);
  process.exit(1); // whatever is still open: containerd waits for this process without a limit
});
