/**
 * Carries out the mounts of a spec inside a root file system. Runs in the child that becomes the container, in its
 * new mount namespace, before the root is switched; sources are looked up in the agent's file system.
 */
import * as sys from "sys";
import { SandboxError } from "../../../src/base/errors.ts";
import { AT_EMPTY_PATH, AT_FDCWD, sysCode } from "../linux.ts";
import { VOLUMES_PATH } from "../volumes/paths.ts";
import { copyTree } from "./copy-tree.ts";
import {
  AT_RECURSIVE,
  FSCONFIG_CMD_CREATE,
  FSCONFIG_SET_FLAG,
  FSCONFIG_SET_STRING,
  MOUNT_ATTR_RDONLY,
  MOVE_MOUNT_F_EMPTY_PATH,
  MOVE_MOUNT_T_EMPTY_PATH,
  OPEN_TREE_CLONE,
  PROC_SUPER_MAGIC,
  RESOLVE_NO_MAGICLINKS,
  RESOLVE_NO_SYMLINKS,
} from "./kernel.ts";
import { type MountAttributes, type MountOptions, parseMountOptions } from "./mount-options.ts";
import type { MountSpec } from "./oci-spec.ts";
import {
  ensureDirectory,
  ensureFile,
  isDirectory,
  openInRootIfPresent,
  openWithoutLinks,
} from "./path-in-root.ts";

export interface MountEnvironment {
  /** Descriptor of the container's root directory. */
  readonly root: number;
  /** Sources below this directory come from the host and may hold no symlinks themselves. */
  readonly sharedPath: string;
}

/**
 * Files of /proc that may be covered by a bind mount: what lxcfs provides and what does not weaken the container's
 * isolation. Covering others could hide /proc/self/attr and the like from the set-up itself.
 */
const COVERABLE_PROC = new Set(
  "cpuinfo diskstats loadavg meminfo slabinfo stat swaps uptime net/dev sys/kernel/ns_last_pid sys/crypto/fips_enabled"
    .split(" ")
    .map((name) => `/proc/${name}`),
);

/** @throws SandboxError ERR_SPEC or ERR_START_PROCESS naming the destination. */
export function performMount(mount: MountSpec, environment: MountEnvironment): void {
  const options = parseMountOptions(mount.options, mount.destination);
  const destination = normalize(mount.destination);
  if (destination === "/")
    throw new SandboxError("ERR_SPEC", "a mount over / of the container is not possible");
  try {
    const isBind = options.bind || mount.type === "bind";
    if (isBind) bindMount(mount, destination, options, environment);
    else fileSystemMount(mount, destination, options, environment);
  } catch (error) {
    if (error instanceof SandboxError) throw error;
    const reason = error instanceof Error ? error.message : String(error);
    throw new SandboxError(
      "ERR_SPEC",
      `cannot mount "${mount.source}" (${mount.type}) at "${destination}": ${reason}`,
      {
        cause: error,
      },
    );
  }
}

/** The destination as an absolute path without "." and ".."; the latter cannot lead above the root. */
function normalize(path: string): string {
  const parts: string[] = [];
  for (const part of path.split("/")) {
    if (part === "..") parts.pop();
    else if (part !== "" && part !== ".") parts.push(part);
  }
  return `/${parts.join("/")}`;
}

/** Opens a path of the agent's file system as a mount source; the caller closes it. */
export function openSource(path: string, sharedPath: string): number {
  // What containers can write to may hold links that lead out of it.
  const foreign = [sharedPath, VOLUMES_PATH].some((top) => path === top || path.startsWith(`${top}/`));
  return sys.openat2(AT_FDCWD, path, sys.O_PATH, 0, foreign ? RESOLVE_NO_SYMLINKS : RESOLVE_NO_MAGICLINKS);
}

/** A detached copy of the mount at `source`; the caller closes it. */
export function cloneMount(source: number, recursive: boolean): number {
  return sys.openTree(source, "", OPEN_TREE_CLONE | AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0));
}

/** Puts a detached mount on top of the directory or file `target`. */
export function attachMount(tree: number, target: number): void {
  sys.moveMount(tree, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

export function changeAttributes(mount: number, attributes: MountAttributes, recursive: boolean): void {
  if (attributes.set === 0 && attributes.clear === 0) return;
  sys.mountSetattr(
    mount,
    "",
    AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0),
    attributes.set,
    attributes.clear,
    0,
  );
}

export const READ_ONLY: MountAttributes = { set: MOUNT_ATTR_RDONLY, clear: 0 };

function bindMount(
  mount: MountSpec,
  destination: string,
  options: MountOptions,
  { root, sharedPath }: MountEnvironment,
): void {
  const source = openSource(mount.source, sharedPath);
  try {
    checkProcDestination(destination, source);
    const target = isDirectory(source) ? ensureDirectory(root, destination) : ensureFile(root, destination);
    try {
      place(cloneMount(source, options.recursiveBind), target, options);
    } finally {
      sys.close(target);
    }
  } finally {
    sys.close(source);
  }
}

/** Sets attributes while the mount is still detached, so that nobody ever sees it without them. Closes `tree`. */
function place(tree: number, target: number, options: MountOptions): void {
  try {
    changeAttributes(tree, options.recursiveAttributes, true);
    changeAttributes(tree, options.attributes, false);
    attachMount(tree, target);
    for (const { flag, recursive } of options.propagation) {
      sys.mountSetattr(tree, "", AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0), 0, 0, flag);
    }
  } finally {
    sys.close(tree);
  }
}

function checkProcDestination(destination: string, source: number): void {
  if (destination !== "/proc" && !destination.startsWith("/proc/")) return;
  if (COVERABLE_PROC.has(destination)) return;
  const type = sys.statfs(`/proc/self/fd/${source}`).type;
  if (destination === "/proc" && type === PROC_SUPER_MAGIC) return;
  throw new SandboxError(
    "ERR_SPEC",
    `a bind mount at ${destination} would cover a part of /proc that must stay visible`,
  );
}

function fileSystemMount(
  mount: MountSpec,
  destination: string,
  options: MountOptions,
  { root }: MountEnvironment,
): void {
  // A version 1 hierarchy cannot exist in the guest; its view is the version 2 one.
  const type = mount.type === "cgroup" ? "cgroup2" : mount.type;
  const data = type === "cgroup2" ? [] : options.data;
  const target = fileSystemTarget(root, destination, type);
  try {
    const tree = newFileSystem(type, mount.source === "" ? type : mount.source, data);
    if (options.copyUp) copyUp(tree, root, destination);
    place(tree, target, options);
  } finally {
    sys.close(target);
  }
}

/** An image must not divert /proc or /sys with a symlink: masked paths would then mask something else. */
function fileSystemTarget(root: number, destination: string, type: string): number {
  if (type !== "proc" && type !== "sysfs") return ensureDirectory(root, destination);
  sys.close(ensureDirectory(root, destination));
  try {
    return openWithoutLinks(root, destination);
  } catch (error) {
    if (sysCode(error) !== "ELOOP") throw error;
    throw new SandboxError(
      "ERR_SPEC",
      `${destination} of the image is a symlink; ${type} must be mounted on a directory`,
    );
  }
}

/** A detached mount of a new file system instance; the caller closes it. */
export function newFileSystem(
  type: string,
  source: string,
  data: MountOptions["data"],
  attributes: number = 0,
): number {
  const context = sys.fsopen(type);
  try {
    sys.fsconfig(context, FSCONFIG_SET_STRING, "source", source, 0);
    for (const [key, value] of data) {
      const command = value === undefined ? FSCONFIG_SET_FLAG : FSCONFIG_SET_STRING;
      sys.fsconfig(context, command, key, value, 0);
    }
    sys.fsconfig(context, FSCONFIG_CMD_CREATE, undefined, undefined, 0);
    return sys.fsmount(context, attributes);
  } catch (error) {
    const detail = contextMessages(context);
    if (detail === "") throw error;
    throw new Error(`${error instanceof Error ? error.message : String(error)} (${detail})`, {
      cause: error,
    });
  } finally {
    sys.close(context);
  }
}

/** What the file system says about a failure: lines "e tmpfs: Bad value for 'size'". */
function contextMessages(context: number): string {
  const messages: string[] = [];
  const buffer = new Uint8Array(512);
  try {
    for (let n = sys.read(context, buffer); n > 0 && messages.length < 8; n = sys.read(context, buffer)) {
      messages.push(
        sys
          .decodeUtf8(buffer, 0, n)
          .replace(/^[a-z] /, "")
          .trim(),
      );
    }
  } catch {
    // ENODATA: no more messages.
  }
  return messages.join("; ");
}

/** The extension `tmpcopyup`: a tmpfs that starts with what the image has at its mount point. */
function copyUp(tree: number, root: number, destination: string): void {
  const source = openInRootIfPresent(root, destination, sys.O_DIRECTORY);
  if (source === undefined) return;
  try {
    copyTree(source, tree);
  } finally {
    sys.close(source);
  }
}
