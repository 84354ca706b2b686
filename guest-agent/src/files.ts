/** Small files, directories and mounts, as init and the service need them. Synchronous: all of it is kernel memory. */
import * as sys from "sys";
import { AT_FDCWD, O_CREAT, O_TRUNC, O_WRONLY, sysCode } from "./linux.ts";

/** The text of a file of at most `limit` bytes; undefined when it does not exist. @throws SysError */
export function readText(path: string, limit = 65_536): string | undefined {
  try {
    return sys.decodeUtf8(sys.readFile(path, limit));
  } catch (error) {
    if (sysCode(error) === "ENOENT") return undefined;
    throw error;
  }
}

/** Writes an existing file of /proc, /sys or a cgroup with one write. @throws SysError */
export function writeKernelFile(path: string, text: string): void {
  sys.writeFile(path, text, O_WRONLY, 0);
}

/** Creates or replaces a regular file. @throws SysError */
export function writeRegularFile(path: string, content: string | Uint8Array, mode = 0o644): void {
  sys.writeFile(path, content, O_WRONLY | O_CREAT | O_TRUNC, mode);
}

/** Creates the directory and its parents where they are missing. @throws SysError */
export function makeDirectories(path: string, mode = 0o755): void {
  for (let at = path.indexOf("/", 1); at > 0; at = path.indexOf("/", at + 1)) {
    makeDirectory(path.slice(0, at), mode);
  }
  makeDirectory(path, mode);
}

/** Creates one directory unless it exists. @throws SysError */
export function makeDirectory(path: string, mode = 0o755): void {
  try {
    sys.mkdirat(AT_FDCWD, path, mode);
  } catch (error) {
    if (sysCode(error) !== "EEXIST") throw error;
  }
}

export function exists(path: string): boolean {
  try {
    sys.fstatat(AT_FDCWD, path, 0);
    return true;
  } catch {
    return false;
  }
}
