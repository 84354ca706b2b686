/** Which tests `lab test` runs. */
import { statSync } from "node:fs";
import { join, relative, resolve } from "node:path";
import { UsageError } from "../command-line.ts";
import { repositoryRoot } from "./places.ts";

/** The suites of test/e2e as tests of the lab: one file for each directory of theirs. */
const SUITES = "test/e2e";
const IN_LAB = "test/lab-e2e";
const ALWAYS = "test/lab";

/** Environment variable with `suites` of a choice, spaces between. */
export const SUITES_VARIABLE = "CAISSON_LAB_SUITES";

export interface Choice {
  /** Lanes and test files, as scripts/test.ts takes them. */
  readonly arguments: readonly string[];
  /** Files and directories of test/e2e to which the tests keep; undefined where they run all that they can. */
  readonly suites?: readonly string[];
}

/**
 * @param named files and directories of test/lab, and of test/e2e, which then run in the host
 * @throws where one is neither
 */
export function choiceOf(named: readonly string[], everything: boolean): Choice {
  if (everything && named.length > 0) throw new UsageError("write: lab test --all, or lab test FILE...");
  if (everything) return { arguments: ["lab", "lab-e2e"] };
  if (named.length === 0) return { arguments: ["lab"] };
  const paths = named.map(existing);
  const own = paths.filter((path) => isWithin(path, ALWAYS) || isWithin(path, IN_LAB));
  const suites = paths.filter((path) => isWithin(path, SUITES));
  const runners = [...new Set(suites.map(runnerOf))];
  return { arguments: [...own, ...runners], ...(suites.length > 0 ? { suites } : {}) };
}

function existing(name: string): string {
  const path = relative(repositoryRoot, resolve(name));
  const known = [ALWAYS, IN_LAB, SUITES].some((dir) => isWithin(path, dir));
  if (known && statSync(join(repositoryRoot, path), { throwIfNoEntry: false }) !== undefined) return path;
  throw new UsageError(`${name}: lab test takes files and directories of ${ALWAYS} and ${SUITES}`);
}

const isWithin = (path: string, dir: string) => path === dir || path.startsWith(`${dir}/`);

/** What of the lab's tests runs those of `path`. @throws when nothing does */
function runnerOf(path: string): string {
  if (path === SUITES) return IN_LAB;
  const [suite] = path.slice(SUITES.length + 1).split("/");
  const runner = `${IN_LAB}/${suite}.test.ts`;
  if (statSync(join(repositoryRoot, runner), { throwIfNoEntry: false }) === undefined)
    throw new UsageError(`${path}: the tests of ${SUITES}/${suite} do not run in the lab`);
  return runner;
}
