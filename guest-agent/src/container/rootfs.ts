/**
 * The root file system of a container, from the agent's mount tree to a process that sees nothing else. Runs in the
 * child, in a mount namespace of its own.
 *
 * The root switch has two forms. pivot_root(2) is used where the agent's own root is a mount like any other; the old
 * root is then unmounted. In an initramfs the agent's root is the namespace's first mount, "rootfs", which pivot_root
 * refuses (EINVAL, pivot_root(2)) and which can never be unmounted. There the container's root is moved over "/"
 * (MS_MOVE), entered with chroot, and everything else that was mounted is unmounted. A process that breaks out of a
 * later chroot still ends at the topmost mount on "/", the container's root, exactly as on a host that booted
 * through an initramfs.
 */
import * as sys from "sys";
import { SandboxError } from "../../../src/base/errors.ts";
import { AT_EMPTY_PATH, AT_FDCWD, sysCode } from "../linux.ts";
import { ownsDev, populateDev } from "./devices.ts";
import { AT_RECURSIVE, MNT_DETACH, MOUNT_ATTR_NODEV, MS_MOVE, MS_PRIVATE } from "./kernel.ts";
import { parsePropagation } from "./mount-options.ts";
import { topMountPoints } from "./mountinfo.ts";
import { attachMount, changeAttributes, cloneMount, openSource, performMount, READ_ONLY } from "./mounts.ts";
import type { ContainerSpec } from "./oci-spec.ts";
import { makeReadOnly, maskPaths } from "./restricted-paths.ts";

/** Bytes of /proc/self/mountinfo that are read at most: some 10,000 mounts. */
const MOUNTINFO_LIMIT = 2 << 20;

export interface RootfsPlan {
  readonly spec: ContainerSpec;
  /** The root file system in the agent's view. */
  readonly rootfsPath: string;
  readonly sharedPath: string;
  /** Uses the second form of the root switch although the first is possible (tests). */
  readonly forceMove: boolean;
}

/** A root that is complete but not entered yet. */
export interface PreparedRoot {
  /** Descriptor of the container's root directory. */
  readonly root: number;
  /** Descriptor of the agent's root directory. */
  readonly oldRoot: number;
}

/**
 * Builds the mount tree of the container. Preconditions: own mount namespace, umask 0.
 * @throws SandboxError naming the mount, device or path.
 */
export function prepareRootfs(plan: RootfsPlan): PreparedRoot {
  const { spec } = plan;
  // Nothing that is mounted from here on may show up in the agent's namespace.
  sys.mountSetattr(AT_FDCWD, "/", AT_RECURSIVE, 0, 0, MS_PRIVATE);
  const oldRoot = sys.openat(AT_FDCWD, "/", sys.O_PATH | sys.O_DIRECTORY, 0);
  const root = attachRoot(plan);
  for (const mount of spec.mounts) performMount(mount, { root, sharedPath: plan.sharedPath });
  if (ownsDev(spec.mounts)) populateDev(root, spec.linux.devices);
  return { root, oldRoot };
}

/** What must come after a console was bound and the working directory made: no more changes to the tree. */
export function sealRootfs({ root }: PreparedRoot, spec: ContainerSpec): void {
  makeReadOnly(root, spec.linux.readonlyPaths);
  maskPaths(root, spec.linux.maskedPaths);
  if (spec.root?.readonly === true) changeAttributes(root, READ_ONLY, false);
}

function attachRoot({ rootfsPath }: RootfsPlan): number {
  try {
    const source = openSource(rootfsPath, rootfsPath);
    const tree = cloneMount(source, true);
    sys.mountSetattr(tree, "", AT_EMPTY_PATH | AT_RECURSIVE, 0, 0, MS_PRIVATE);
    // The shared tree is mounted nodev; an image may hold device nodes, which the device rules guard.
    changeAttributes(tree, { set: 0, clear: MOUNT_ATTR_NODEV }, false);
    attachMount(tree, source);
    sys.close(source);
    return tree;
  } catch (error) {
    throw new SandboxError("ERR_SPEC", `cannot use ${rootfsPath} as the root file system`, { cause: error });
  }
}

/**
 * Makes the prepared root the process's root and current directory and removes every other mount from the namespace.
 * Closes both descriptors.
 */
export function enterRootfs({ root, oldRoot }: PreparedRoot, plan: RootfsPlan): void {
  sys.fchdir(root);
  if (plan.forceMove || !pivot()) moveOver(oldRoot, root, plan.rootfsPath);
  sys.chdir("/");
  sys.close(oldRoot);
  sys.close(root);
  const { rootfsPropagation } = plan.spec.linux;
  if (rootfsPropagation === "") return;
  const propagation = parsePropagation(rootfsPropagation);
  if (propagation === undefined) {
    throw new SandboxError("ERR_SPEC", `linux.rootfsPropagation: "${rootfsPropagation}" is not known`);
  }
  sys.mountSetattr(AT_FDCWD, "/", propagation.recursive ? AT_RECURSIVE : 0, 0, 0, propagation.flag);
}

/** False when the old root is rootfs. */
function pivot(): boolean {
  try {
    sys.pivotRoot(".", ".");
  } catch (error) {
    if (sysCode(error) === "EINVAL") return false;
    throw error;
  }
  // The old root is now stacked on the new one: "." is the new one, "/" of a lookup is covered by the old one.
  sys.umount2(".", MNT_DETACH);
  return true;
}

function moveOver(oldRoot: number, root: number, rootfsPath: string): void {
  // Read now: after chroot the mounts outside of the new root are no longer listed.
  const mountinfo = sys.decodeUtf8(sys.readFile("/proc/self/mountinfo", MOUNTINFO_LIMIT));
  sys.mount(".", "/", undefined, MS_MOVE, undefined);
  sys.chroot(".");
  // The tree below the old root can still be walked from a descriptor of it.
  sys.fchdir(oldRoot);
  for (const mountPoint of topMountPoints(mountinfo, rootfsPath)) sys.umount2(mountPoint, MNT_DETACH);
  sys.fchdir(root);
}
