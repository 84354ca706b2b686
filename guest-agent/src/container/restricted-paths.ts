/** Masked and read-only paths of the spec. Runs in the child before the root is switched. */
import * as sys from "sys";
import { AT_FDCWD } from "../linux.ts";
import { MOUNT_ATTR_RDONLY } from "./kernel.ts";
import { attachMount, changeAttributes, cloneMount, newFileSystem, READ_ONLY } from "./mounts.ts";
import { isDirectory, openInRootIfPresent } from "./path-in-root.ts";

/** Covers files with /dev/null and directories with an empty read-only tmpfs; what is absent is left absent. */
export function maskPaths(root: number, paths: readonly string[]): void {
  const nothing = sys.openat(AT_FDCWD, "/dev/null", sys.O_PATH, 0);
  let empty: number | undefined;
  for (const path of paths) {
    const target = openInRootIfPresent(root, path);
    if (target === undefined) continue;
    if (isDirectory(target) && empty !== undefined) {
      cover(empty, target);
    } else if (isDirectory(target)) {
      // One empty file system serves every masked directory. It is attached before it is copied: kernels before 6.15
      // do not clone a detached mount (EINVAL).
      empty = newFileSystem(
        "tmpfs",
        "tmpfs",
        [
          ["nr_blocks", "1"],
          ["nr_inodes", "1"],
          ["mode", "755"],
        ],
        MOUNT_ATTR_RDONLY,
      );
      attachMount(empty, target);
    } else {
      cover(nothing, target);
    }
    sys.close(target);
  }
  if (empty !== undefined) sys.close(empty);
  sys.close(nothing);
}

function cover(source: number, target: number): void {
  const tree = cloneMount(source, false);
  attachMount(tree, target);
  sys.close(tree);
}

/** Makes each path that exists, and what is mounted below it, a read-only mount of itself. */
export function makeReadOnly(root: number, paths: readonly string[]): void {
  for (const path of paths) {
    const target = openInRootIfPresent(root, path);
    if (target === undefined) continue;
    const tree = cloneMount(target, true);
    changeAttributes(tree, READ_ONLY, true);
    attachMount(tree, target);
    sys.close(tree);
    sys.close(target);
  }
}
