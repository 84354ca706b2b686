/** Probes: programs in C beside this file that measure from within, also where no libraries are. */
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { runOk } from "../test/harness/run.ts";

/** Compiles `<name>.c` into `dir`, statically. @returns the program's path */
export async function compileProbe(name: string, dir: string): Promise<string> {
  const program = join(dir, name);
  const source = fileURLToPath(new URL(`${name}.c`, import.meta.url));
  await runOk(["gcc", "-O2", "-static", "-o", program, source]);
  return program;
}
