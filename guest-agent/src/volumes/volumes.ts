/** The volumes that are the guest's own (docs/protocol.md): file systems in memory, copies of what the kubelet writes. */
import * as sys from "sys";
import { SandboxError } from "../../../src/base/errors.ts";
import type {
  CopiedVolume,
  MemoryVolume,
  PrepareVolumeRequest,
} from "../../../src/gen/caisson/agent/v1/agent_pb.ts";
import { MNT_DETACH } from "../container/kernel.ts";
import { ensureDirectory, openInRootIfPresent } from "../container/path-in-root.ts";
import { exists, makeDirectories } from "../files.ts";
import { AT_EMPTY_PATH, AT_FDCWD, sysCode } from "../linux.ts";
import { SHARED_PATH } from "../sandbox-setup.ts";
import { copyVolume, isVersion } from "./copied-volume.ts";
import { VOLUMES_PATH } from "./paths.ts";
import { removeTree } from "./remove-tree.ts";

const NAME = /^[a-z0-9]{1,64}$/;
const SHARED_VOLUME = /^\/run\/caisson\/shared\/\.volumes\/\d+$/;

/** linux/fs.h */
const UMOUNT_NOFOLLOW = 8;

/** @throws SandboxError ERR_INVALID_ARGUMENT, ERR_NOT_FOUND (the version to copy is gone), ERR_INTERNAL */
export function prepareVolume({ path, kind }: PrepareVolumeRequest): void {
  checkPath(path);
  if (kind.case === "memory") makeMemory(path, kind.value);
  else if (kind.case === "copied") makeCopy(path, kind.value);
  else throw new SandboxError("ERR_INVALID_ARGUMENT", `the volume ${path} is of no known kind`);
}

/** @throws SandboxError ERR_INVALID_ARGUMENT */
export function removeVolume(path: string): void {
  if (SHARED_VOLUME.test(path)) {
    unmount(path);
    return;
  }
  checkPath(path);
  if (exists(path)) removeTree(path);
}

/**
 * Lets the kernel mount what the host has mounted at the sources of `mounts` in the shared tree. The kernel does so at
 * the first walk through a path, in the walker's mount namespace, and each time as another file system with inodes of
 * its own. Done here before containers get copies of this namespace, they share it.
 */
export function mountSharedVolumes(mounts: readonly { readonly source: string }[]): void {
  for (const { source } of mounts) {
    if (!SHARED_VOLUME.test(source)) continue;
    try {
      // O_PATH alone would stop at the mount point; ENOTDIR tells a file, which is shared as it is.
      sys.close(sys.openat(AT_FDCWD, source, sys.O_PATH | sys.O_DIRECTORY, 0));
    } catch (error) {
      if (sysCode(error) !== "ENOTDIR") throw error;
    }
  }
}

/** One that was never walked through is not mounted. */
function unmount(path: string): void {
  try {
    sys.umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW);
  } catch (error) {
    const code = sysCode(error);
    if (code !== "EINVAL" && code !== "ENOENT") throw error;
  }
}

function checkPath(path: string): void {
  if (path.startsWith(`${VOLUMES_PATH}/`) && NAME.test(path.slice(VOLUMES_PATH.length + 1))) return;
  throw new SandboxError("ERR_INVALID_ARGUMENT", `"${path}" is no place for a volume`);
}

/** Parts of a relative path without "..", below `top`. */
function below(top: string, path: string): string {
  if (path === "") return top;
  if (path.split("/").some((part) => part === "" || part === "." || part === "..")) {
    throw new SandboxError("ERR_INVALID_ARGUMENT", `"${path}" is not a path below ${top}`);
  }
  return top === "" ? path : `${top}/${path}`;
}

function makeMemory(path: string, { sizeBytes, mode, uid, gid, subPath }: MemoryVolume): void {
  if (!exists(path)) {
    makeDirectories(path);
    const options = `size=${sizeBytes},mode=0${(mode & 0o7777).toString(8)},uid=${uid},gid=${gid}`;
    sys.mount("tmpfs", path, "tmpfs", 0, options);
  }
  if (subPath !== "") makeSubPath(path, below("", subPath), { mode, uid, gid });
}

/** Confined to the volume: its containers may have put links anywhere in it. */
function makeSubPath(path: string, subPath: string, owner: Pick<MemoryVolume, "mode" | "uid" | "gid">): void {
  const root = sys.openat(AT_FDCWD, path, sys.O_PATH | sys.O_DIRECTORY, 0);
  try {
    const present = openInRootIfPresent(root, subPath);
    const directory = present ?? ensureDirectory(root, subPath);
    try {
      if (present !== undefined) return;
      sys.fchownat(directory, "", owner.uid, owner.gid, AT_EMPTY_PATH);
      sys.fchmodat(AT_FDCWD, `/proc/self/fd/${directory}`, owner.mode & 0o7777);
    } finally {
      sys.close(directory);
    }
  } finally {
    sys.close(root);
  }
}

function makeCopy(path: string, { sourcePath, version }: CopiedVolume): void {
  if (!isVersion(version)) {
    throw new SandboxError("ERR_INVALID_ARGUMENT", `"${version}" is no version of a volume`);
  }
  copyVolume(path, below(SHARED_PATH, sourcePath), version);
}
