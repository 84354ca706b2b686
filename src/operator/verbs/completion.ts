/** `shim completion`: prints the script for a shell. */
import { type Arguments, completionScript, shells, UsageError } from "../../cli/index.ts";
import type { OperatorHost } from "../host.ts";
import { shimProgram } from "../program.ts";

export async function runCompletion(args: Arguments, host: OperatorHost): Promise<number> {
  const shell = shells.find((name) => name === args.operands[0]);
  if (shell === undefined)
    throw new UsageError(`completion takes ${shells.join(", ")}, not "${args.operands[0]}"`);
  host.stdout(completionScript(shimProgram, shell));
  return 0;
}
