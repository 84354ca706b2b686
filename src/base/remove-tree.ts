/** Removing directories of ours that may have had mounts below them. Host only. */
import fs from "node:fs";
import path from "node:path";
import { errnoOf } from "./errors.ts";

/**
 * Removes a directory of ours and everything in it, never crossing into a mount and never following a link: where
 * something is still mounted below, it is left and the call throws, because deleting through a bind mount would
 * delete the user's data. One that is not there is no error.
 */
export function removeTree(dir: string): void {
  const mounted = mountsBelow(dir);
  if (mounted.length > 0) throw new Error(`${dir} was left: still mounted below it: ${mounted.join(", ")}`);
  fs.rmSync(dir, { recursive: true, force: true });
}

/**
 * Mount points at or below `dir`, innermost last, from /proc/self/mountinfo. They are given in the kernel's words: links
 * on the way to `dir` are resolved.
 */
export function mountsBelow(dir: string): string[] {
  const prefix = `${resolveLinks(path.resolve(dir))}/`;
  return fs
    .readFileSync("/proc/self/mountinfo", "utf8")
    .split("\n")
    .map((line) => unescapeMountPath(line.split(" ")[4] ?? ""))
    .filter((point) => `${point}/`.startsWith(prefix));
}

/** `file` with the links in its parent resolved; its own last part is what would be removed, link or not. */
function resolveLinks(file: string): string {
  try {
    return path.join(fs.realpathSync(path.dirname(file)), path.basename(file));
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return file;
    throw error;
  }
}

/** mountinfo writes space, tab, newline and backslash as three octal digits. */
function unescapeMountPath(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}
