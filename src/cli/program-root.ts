/** Where the programs and their parts are: the repository's dist, or the directory that a package installs. */
import { existsSync, realpathSync } from "node:fs";
import { dirname, join } from "node:path";

/**
 * The directory that holds bin, lib, native and guest, looked for from `program` upwards: the one in which it lies, or
 * `dist` beside its sources. Without either, the directory above the program's own.
 * @param program file of the running program, as in process.argv[1]; links are followed
 */
export function programRoot(program = "."): string {
  const start = dirname(realpathSync(program));
  for (let dir = start; dir !== "/"; dir = dirname(dir)) {
    for (const candidate of [dir, join(dir, "dist")]) {
      if (existsSync(join(candidate, "guest/agent"))) return candidate;
    }
  }
  return dirname(start);
}
