/**
 * Paths inside a container's root file system, which its image controls: every lookup is confined by the kernel
 * (openat2, RESOLVE_IN_ROOT), so that absolute symlinks and ".." lead back into the root and never out of it.
 */
import * as sys from "sys";
import { SandboxError } from "../../../src/base/errors.ts";
import { AT_EMPTY_PATH, O_CREAT, O_EXCL, O_RDONLY, S_IFDIR, S_IFMT, sysCode } from "../linux.ts";
import { RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS } from "./kernel.ts";

/** Symlinks followed while a missing path is created; the kernel's own limit is 40 (MAXSYMLINKS, linux/namei.h). */
const LINK_LIMIT = 40;
/** openat2 answers EAGAIN when a rename races with a confined lookup; repeating is all that is needed. */
const RACE_LIMIT = 100;

/**
 * Opens `path` below `root`; the caller closes the descriptor.
 * @param root descriptor of the root directory.
 * @param flags O_PATH when absent: a handle on whatever it is.
 * @param resolve further RESOLVE_* bits.
 * @throws SysError ENOENT and others of openat2(2).
 */
export function openInRoot(root: number, path: string, flags: number = sys.O_PATH, resolve = 0): number {
  for (let attempt = 1; ; attempt++) {
    try {
      return sys.openat2(root, path, flags, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | resolve);
    } catch (error) {
      if (sysCode(error) !== "EAGAIN" || attempt === RACE_LIMIT) throw error;
    }
  }
}

/** As openInRoot, or undefined when nothing is there. */
export function openInRootIfPresent(
  root: number,
  path: string,
  flags: number = sys.O_PATH,
): number | undefined {
  try {
    return openInRoot(root, path, flags);
  } catch (error) {
    const code = sysCode(error);
    if (code === "ENOENT" || code === "ENOTDIR") return undefined;
    throw error;
  }
}

/** Opens `path` below `root` if no part of it is a symlink. @throws SysError ELOOP when one is. */
export function openWithoutLinks(root: number, path: string): number {
  return openInRoot(root, path, sys.O_PATH, RESOLVE_NO_SYMLINKS);
}

/** True when the descriptor is a directory. */
export function isDirectory(fd: number): boolean {
  return (sys.fstatat(fd, "", AT_EMPTY_PATH).mode & S_IFMT) === S_IFDIR;
}

/**
 * Opens the directory `path` below `root` and makes what is missing of it (mode 0755, owned by root). A dangling
 * symlink on the way is followed and its target made, inside the root.
 */
export function ensureDirectory(root: number, path: string): number {
  return ensure(root, path, "directory");
}

/** Opens `path` below `root`; when nothing is there, makes an empty file (mode 0644) and the directories above it. */
export function ensureFile(root: number, path: string): number {
  return ensure(root, path, "file");
}

function ensure(root: number, path: string, kind: "directory" | "file"): number {
  let wanted = split(path);
  for (let links = 0; links <= LINK_LIMIT; links++) {
    const outcome = ensureOnce(root, wanted, kind);
    if (typeof outcome === "number") return outcome;
    wanted = outcome;
  }
  throw new SandboxError("ERR_SPEC", `${path}: too many levels of symbolic links in the root file system`);
}

/** The descriptor, or the path to continue with after a dangling symlink. */
function ensureOnce(
  root: number,
  wanted: readonly string[],
  kind: "directory" | "file",
): number | readonly string[] {
  const full = openInRootIfPresent(root, wanted.join("/") || ".");
  if (full !== undefined) return full;
  const { fd, depth } = openDeepest(root, wanted);
  let current = fd;
  try {
    for (let at = depth; at < wanted.length; at++) {
      // Not undefined: at < wanted.length.
      const name = wanted[at] as string;
      if (name === "..")
        throw new SandboxError("ERR_SPEC", `${wanted.join("/")}: ".." below a missing directory`);
      const target = readLink(current, name);
      if (target !== undefined) return redirect(wanted, at, target);
      const next = create(current, name, at === wanted.length - 1 ? kind : "directory");
      sys.close(current);
      current = next;
    }
    const made = current;
    current = -1;
    return made;
  } finally {
    if (current >= 0) sys.close(current);
  }
}

/** The longest prefix of `wanted` that exists, as a descriptor. */
function openDeepest(
  root: number,
  wanted: readonly string[],
): { readonly fd: number; readonly depth: number } {
  for (let depth = wanted.length - 1; depth > 0; depth--) {
    const fd = openInRootIfPresent(root, wanted.slice(0, depth).join("/"));
    if (fd !== undefined) return { fd, depth };
  }
  return { fd: openInRoot(root, "."), depth: 0 };
}

/** The path that a symlink at wanted[at] leads to. */
function redirect(wanted: readonly string[], at: number, target: string): readonly string[] {
  const base = target.startsWith("/") ? [] : wanted.slice(0, at);
  return [...base, ...split(target), ...wanted.slice(at + 1)];
}

function readLink(directory: number, name: string): string | undefined {
  try {
    return sys.readlinkat(directory, name);
  } catch (error) {
    const code = sysCode(error);
    if (code === "EINVAL" || code === "ENOENT") return undefined;
    throw error;
  }
}

/** Makes and opens one entry. What appeared there meanwhile is taken unless it is a symlink. */
function create(directory: number, name: string, kind: "directory" | "file"): number {
  try {
    if (kind === "directory") sys.mkdirat(directory, name, 0o755);
    else sys.close(sys.openat(directory, name, O_CREAT | O_EXCL | O_RDONLY | sys.O_NOFOLLOW, 0o644));
  } catch (error) {
    if (sysCode(error) !== "EEXIST") throw error;
  }
  const fd = sys.openat(directory, name, sys.O_PATH | sys.O_NOFOLLOW, 0);
  if (kind === "directory" && !isDirectory(fd)) {
    sys.close(fd);
    throw new SandboxError("ERR_SPEC", `${name} in the root file system is not a directory`);
  }
  return fd;
}

function split(path: string): readonly string[] {
  return path.split("/").filter((part) => part !== "" && part !== ".");
}
