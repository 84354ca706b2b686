/** Removing directories of ours that may have had mounts below them. Host only. */
import { spawnSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { errnoOf } from "./errors.ts";

/**
 * Removes a directory of ours and everything in it, never crossing into a mount and never following a link: where
 * something is still mounted below, it is left and the call throws, because deleting through a bind mount would
 * delete the user's data. One that is not there is no error.
 */
export function removeTree(dir: string): void {
  refuseMounts(dir);
  try {
    fs.rmSync(dir, { recursive: true, force: true });
  } catch (error) {
    if (errnoOf(error) !== "ENAMETOOLONG") throw error;
    removeByDescriptor(dir);
  }
}

/**
 * As removeTree(), where somebody may be changing the tree meanwhile: a running guest could put a link in the place of a
 * directory between two looks at its path. Only the last part of `dir` may be theirs.
 */
export function removeGuestTree(dir: string): void {
  refuseMounts(dir);
  if (!removeNearlyEmpty(dir)) removeByDescriptor(dir);
}

function refuseMounts(dir: string): void {
  const mounted = mountsBelow(dir);
  if (mounted.length > 0) throw new Error(`${dir} was left: still mounted below it: ${mounted.join(", ")}`);
}

/** Saves a process for what an honest guest leaves: a file, or a directory with empty ones. @returns whether all is gone. */
function removeNearlyEmpty(dir: string): boolean {
  let fd: number | undefined;
  try {
    fd = fs.openSync(dir, fs.constants.O_DIRECTORY | fs.constants.O_NOFOLLOW);
    const opened = `/proc/self/fd/${fd}`;
    for (const name of fs.readdirSync(opened)) fs.rmdirSync(path.join(opened, name));
    fs.rmdirSync(dir);
    return true;
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return fs.lstatSync(dir, { throwIfNoEntry: false }) === undefined;
    if (fd !== undefined || errnoOf(error) !== "ENOTDIR") return false;
    fs.unlinkSync(dir);
    return true;
  } finally {
    if (fd !== undefined) fs.closeSync(fd);
  }
}

/** rm(1) goes down by descriptor: it follows no link, and minds no directories that are nested beyond PATH_MAX. */
function removeByDescriptor(dir: string): void {
  const result = spawnSync("rm", ["-rf", "--one-file-system", "--", dir], { encoding: "utf8" });
  if (result.status !== 0) throw new Error(`cannot remove ${dir}: ${result.stderr || result.error?.message}`);
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
