/**
 * What every container has in /dev (OCI config-linux.md "Default Devices") and the devices its spec adds. Runs in the
 * child, inside the new mount namespace, after the mounts and before the root is switched.
 */
import * as sys from "sys";
import { SandboxError } from "../../../src/base/errors.ts";
import { exists } from "../files.ts";
import {
  AT_FDCWD,
  AT_REMOVEDIR,
  AT_SYMLINK_NOFOLLOW,
  S_IFBLK,
  S_IFCHR,
  S_IFIFO,
  S_IFMT,
  sysCode,
} from "../linux.ts";
import { attachMount, cloneMount } from "./mounts.ts";
import type { DeviceSpec, MountSpec } from "./oci-spec.ts";
import { ensureDirectory, ensureFile } from "./path-in-root.ts";

const character = (path: string, major: number, minor: number): DeviceSpec => ({
  path,
  type: "c",
  major,
  minor,
  fileMode: 0o666,
  uid: 0,
  gid: 0,
});

/** Numbers of Documentation/admin-guide/devices.txt. */
const DEFAULT_DEVICES: readonly DeviceSpec[] = [
  character("/dev/null", 1, 3),
  character("/dev/zero", 1, 5),
  character("/dev/full", 1, 7),
  character("/dev/random", 1, 8),
  character("/dev/urandom", 1, 9),
  character("/dev/tty", 5, 0),
];

const SYMLINKS: readonly (readonly [target: string, name: string])[] = [
  ["/proc/self/fd", "fd"],
  ["/proc/self/fd/0", "stdin"],
  ["/proc/self/fd/1", "stdout"],
  ["/proc/self/fd/2", "stderr"],
  ["pts/ptmx", "ptmx"],
];

/** The kernel's memory, where it is configured with CONFIG_PROC_KCORE. */
const KCORE = "/proc/kcore";

const TYPES: Readonly<Record<string, number>> = { c: S_IFCHR, u: S_IFCHR, b: S_IFBLK, p: S_IFIFO };

/** False when the spec brings a whole /dev along: then nothing is added to it. */
export function ownsDev(mounts: readonly MountSpec[]): boolean {
  return !mounts.some(
    ({ destination, type, options }) =>
      destination.replace(/\/+$/, "") === "/dev" &&
      (type === "bind" || options.includes("bind") || options.includes("rbind")),
  );
}

/** @param root descriptor of the container's root directory. Preconditions: the umask is 0. */
export function populateDev(root: number, devices: readonly DeviceSpec[]): void {
  const requested = new Set(devices.map(({ path }) => path));
  const dev = ensureDirectory(root, "/dev");
  for (const device of DEFAULT_DEVICES) if (!requested.has(device.path)) makeDevice(root, dev, device);
  for (const device of devices) makeDevice(root, dev, device);
  for (const [target, name] of SYMLINKS) makeLink(dev, target, name);
  if (exists(KCORE)) makeLink(dev, KCORE, "core");
  sys.close(dev);
}

function makeLink(directory: number, target: string, name: string): void {
  for (let attempt = 1; attempt <= 2; attempt++) {
    try {
      sys.symlinkat(target, directory, name);
      return;
    } catch (error) {
      if (sysCode(error) !== "EEXIST") throw error;
    }
    // What an image has at these names is replaced only where it is a link or a device ("ptmx").
    if (attempt === 1 && !removeStale(directory, name)) return;
  }
}

function removeStale(directory: number, name: string): boolean {
  const { mode } = sys.fstatat(directory, name, AT_SYMLINK_NOFOLLOW);
  if ((mode & S_IFMT) === 0o040000) return false;
  sys.unlinkat(directory, name, 0);
  return true;
}

/** @param dev descriptor of the root's /dev, where most devices are. */
function makeDevice(root: number, dev: number, device: DeviceSpec): void {
  const type = TYPES[device.type];
  if (type === undefined) {
    throw new SandboxError("ERR_SPEC", `linux.devices: ${device.path} has the unknown type "${device.type}"`);
  }
  const parts = device.path.split("/").filter((part) => part !== "" && part !== ".");
  const name = parts.pop();
  if (name === undefined || name === ".." || !device.path.startsWith("/")) {
    throw new SandboxError("ERR_SPEC", `linux.devices: "${device.path}" is not an absolute path of a device`);
  }
  const parent = parts.join("/");
  const directory = parent === "dev" ? dev : ensureDirectory(root, parent);
  try {
    const mode = type | ((device.fileMode ?? 0o666) & 0o7777);
    const made = makeNode(directory, name, mode, device);
    if (made) sys.fchownat(directory, name, device.uid, device.gid, AT_SYMLINK_NOFOLLOW);
    else bindNode(root, device);
  } catch (error) {
    if (error instanceof SandboxError) throw error;
    throw new SandboxError("ERR_SPEC", `cannot make the device ${device.path}`, { cause: error });
  } finally {
    if (directory !== dev) sys.close(directory);
  }
}

/** False when the file system refuses device nodes (mounted nodev by its server, for example). */
function makeNode(directory: number, name: string, mode: number, { major, minor }: DeviceSpec): boolean {
  for (let attempt = 1; ; attempt++) {
    try {
      sys.mknodat(directory, name, mode, major, minor);
      return true;
    } catch (error) {
      const code = sysCode(error);
      if (code === "EPERM" || code === "EROFS") return false;
      if (code !== "EEXIST" || attempt > 1) throw error;
    }
    const present = sys.fstatat(directory, name, AT_SYMLINK_NOFOLLOW);
    const same =
      (present.mode & S_IFMT) === (mode & S_IFMT) &&
      present.rdevMajor === major &&
      present.rdevMinor === minor;
    if (same) return true;
    sys.unlinkat(directory, name, (present.mode & S_IFMT) === 0o040000 ? AT_REMOVEDIR : 0);
  }
}

/** The guest's own node, bound over a plain file. */
function bindNode(root: number, { path }: DeviceSpec): void {
  const source = sys.openat(AT_FDCWD, path, sys.O_PATH, 0);
  const target = ensureFile(root, path);
  const tree = cloneMount(source, false);
  attachMount(tree, target);
  for (const fd of [tree, target, source]) sys.close(fd);
}
