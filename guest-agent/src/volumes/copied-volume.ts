/**
 * A copy of a directory that the kubelet writes atomically (src/resources/share/atomic-volume.ts on the host), kept in the
 * guest's memory and exchanged in the kubelet's own order: whoever watches the directory or a file sees the same events
 * as beside the original, and never a mixture of two versions.
 */
import * as sys from "sys";
import { SandboxError } from "../../../src/base/errors.ts";
import { copyTree } from "../container/copy-tree.ts";
import { exists, makeDirectories } from "../files.ts";
import { AT_EMPTY_PATH, AT_FDCWD, O_RDONLY, sysCode } from "../linux.ts";
import { removeTree } from "./remove-tree.ts";

const LINK = "..data";
const NEW_LINK = "..data_tmp";

/**
 * Makes `path` a copy of the version `version` in the directory `source`. Idempotent.
 * @throws ERR_NOT_FOUND when that version is gone from the source.
 */
export function copyVolume(path: string, source: string, version: string): void {
  makeDirectories(path);
  const previous = currentVersion(path);
  if (previous === version) return;
  copyVersion(path, source, version);
  if (exists(`${path}/${NEW_LINK}`)) sys.unlinkat(AT_FDCWD, `${path}/${NEW_LINK}`, 0);
  sys.symlinkat(version, AT_FDCWD, `${path}/${NEW_LINK}`);
  sys.renameat2(AT_FDCWD, `${path}/${NEW_LINK}`, AT_FDCWD, `${path}/${LINK}`, 0);
  updateNames(path, version);
  if (previous !== undefined) removeTree(`${path}/${previous}`);
}

/** The name of a version as the kubelet makes it: "..2026_01_02_03_04_05.123456". */
export const isVersion = (name: string): boolean =>
  /^\.\.[^/]+$/.test(name) && name !== LINK && name !== NEW_LINK;

/** The version that is shown. A container that may write to the volume can have put anything in the link's place. */
function currentVersion(path: string): string | undefined {
  try {
    const target = sys.readlinkat(AT_FDCWD, `${path}/${LINK}`);
    return isVersion(target) ? target : undefined;
  } catch (error) {
    const code = sysCode(error);
    if (code === "ENOENT" || code === "EINVAL") return undefined;
    throw error;
  }
}

function copyVersion(path: string, source: string, version: string): void {
  const target = `${path}/${version}`;
  // What an attempt that failed has left.
  if (exists(target)) removeTree(target);
  const flags = O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW;
  const top = sys.openat(AT_FDCWD, source, flags, 0);
  try {
    const from = sys.openat(top, version, flags, 0);
    try {
      sys.mkdirat(AT_FDCWD, target, 0o755);
      const to = sys.openat(AT_FDCWD, target, flags, 0);
      copyTree(from, to);
      sys.close(to);
    } finally {
      sys.close(from);
    }
    copyPermissions(top, path);
  } catch (error) {
    if (sysCode(error) !== "ENOENT") throw error;
    throw new SandboxError("ERR_NOT_FOUND", `${version} is gone from the volume`, { cause: error });
  } finally {
    sys.close(top);
  }
}

/** Of the volume's own directory: the kubelet sets its group for fsGroup. */
function copyPermissions(from: number, path: string): void {
  const { mode, uid, gid } = sys.fstatat(from, "", AT_EMPTY_PATH);
  sys.fchownat(AT_FDCWD, path, uid, gid, 0);
  sys.fchmodat(AT_FDCWD, path, mode & 0o7777);
}

/** A visible name is a link through `..data`; one that the version does not have any more goes. */
function updateNames(path: string, version: string): void {
  const names = new Set(sys.readdir(`${path}/${version}`));
  const present = new Set(sys.readdir(path).filter((name) => !name.startsWith("..")));
  for (const name of names) {
    if (!present.has(name)) sys.symlinkat(`${LINK}/${name}`, AT_FDCWD, `${path}/${name}`);
  }
  for (const name of present) {
    if (!names.has(name)) sys.unlinkat(AT_FDCWD, `${path}/${name}`, 0);
  }
}
