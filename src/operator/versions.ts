/** Versions of the programs that a sandbox is made of, as they tell them. */
import { execFile } from "node:child_process";

/** Symbol.asyncDispose is in Node from 20.4 on; execa asks for 20.5. package.json says the same. */
export const LEAST_NODE = "20.5";

const LIMIT_MS = 5_000;

/** First line of what `file args` prints; undefined when it cannot be run. */
export function firstLineOf(
  file: string,
  args: readonly string[] = ["--version"],
): Promise<string | undefined> {
  return new Promise((resolve) => {
    const options = { timeout: LIMIT_MS, env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin", LC_ALL: "C.UTF-8" } };
    execFile(file, [...args], options, (error, stdout, stderr) => {
      const line = `${stdout}\n${stderr}`
        .split("\n")
        .map((text) => text.trim())
        .find((text) => text !== "");
      // Some print their version and fail; one that cannot be executed prints nothing.
      resolve(
        error !== null && (line === undefined || /not found|No such file/.test(line)) ? undefined : line,
      );
    });
  });
}

/** "7.2.22" out of a version line; undefined when there is none. Pure. */
export function versionIn(line: string | undefined): string | undefined {
  return /\b(\d+\.\d+(?:\.\d+)*)/.exec(line ?? "")?.[1];
}

/** Whether version `a` is at least `b`, number by number. Pure. */
export function atLeast(a: string, b: string): boolean {
  const left = a.split(".").map(Number);
  const right = b.split(".").map(Number);
  for (let index = 0; index < Math.max(left.length, right.length); index++) {
    const difference = (left[index] ?? 0) - (right[index] ?? 0);
    if (difference !== 0) return difference > 0;
  }
  return true;
}
