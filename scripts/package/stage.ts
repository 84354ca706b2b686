/** Lays the entries of a package out below a directory, with equal times. */
import { mkdirSync, readdirSync, symlinkSync, utimesSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { Entry } from "./contents.ts";

/** @returns the bytes of all files. @param epoch modification time of files and directories, seconds since 1970 */
export function stage(entries: readonly Entry[], tree: string, epoch: number): number {
  const previous = process.umask(0o022);
  let bytes = 0;
  try {
    for (const entry of entries) {
      const target = join(tree, entry.path);
      mkdirSync(dirname(target), { recursive: true });
      if ("link" in entry) symlinkSync(entry.link, target);
      else {
        writeFileSync(target, entry.data, { mode: entry.mode, flag: "wx" });
        utimesSync(target, epoch, epoch);
        bytes += entry.data.length;
      }
    }
  } finally {
    process.umask(previous);
  }
  setDirectoryTimes(tree, epoch);
  return bytes;
}

function setDirectoryTimes(dir: string, epoch: number): void {
  for (const entry of readdirSync(dir, { withFileTypes: true })) {
    if (entry.isDirectory()) setDirectoryTimes(join(dir, entry.name), epoch);
  }
  utimesSync(dir, epoch, epoch);
}
