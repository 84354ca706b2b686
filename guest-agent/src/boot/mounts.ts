/** The file systems of the guest itself, mounted before anything else. */
import * as sys from "sys";
import { describeError } from "../../../src/base/errors.ts";
import type { Log } from "../../../src/base/log.ts";
import { makeDirectory } from "../files.ts";
import { AT_FDCWD, MS_NODEV, MS_NOEXEC, MS_NOSUID, sysCode } from "../linux.ts";

interface BootMount {
  readonly type: string;
  readonly target: string;
  readonly flags: number;
  readonly data?: string;
}

const STRICT = MS_NOSUID | MS_NODEV | MS_NOEXEC;

const bootMounts: readonly BootMount[] = [
  { type: "proc", target: "/proc", flags: STRICT },
  { type: "sysfs", target: "/sys", flags: STRICT },
  { type: "devtmpfs", target: "/dev", flags: MS_NOSUID, data: "mode=0755" },
  { type: "devpts", target: "/dev/pts", flags: MS_NOSUID | MS_NOEXEC, data: "mode=0620,ptmxmode=0666" },
  { type: "tmpfs", target: "/dev/shm", flags: MS_NOSUID | MS_NODEV, data: "mode=1777" },
  { type: "tmpfs", target: "/run", flags: MS_NOSUID | MS_NODEV, data: "mode=0755" },
  { type: "tmpfs", target: "/tmp", flags: MS_NOSUID | MS_NODEV, data: "mode=1777" },
  { type: "cgroup2", target: "/sys/fs/cgroup", flags: STRICT, data: "nsdelegate" },
];

/** What containers expect of /dev and devtmpfs does not make. */
const deviceLinks: readonly (readonly [string, string])[] = [
  ["/dev/fd", "/proc/self/fd"],
  ["/dev/stdin", "/proc/self/fd/0"],
  ["/dev/stdout", "/proc/self/fd/1"],
  ["/dev/stderr", "/proc/self/fd/2"],
];

/** Mounts everything; what fails is logged, for a guest without a tmpfs is better than none. */
export function mountAll(log: Log): void {
  for (const { type, target, flags, data } of bootMounts) {
    try {
      makeDirectory(target);
      sys.mount(type, target, type, flags, data);
    } catch (error) {
      // EBUSY: the kernel mounted devtmpfs already (CONFIG_DEVTMPFS_MOUNT).
      if (sysCode(error) !== "EBUSY")
        log.error({ path: target, err: describeError(error) }, `cannot mount ${type}`);
    }
  }
  for (const [path, target] of deviceLinks) {
    try {
      sys.symlinkat(target, AT_FDCWD, path);
    } catch (error) {
      if (sysCode(error) !== "EEXIST") log.warn({ path, err: describeError(error) }, "cannot make a link");
    }
  }
}
