/** Which volumes of the kubelet need more than sharing their files. */
import fs from "node:fs";
import type { MemoryVolume, VolumeKind } from "../../oci/rewrite.ts";
import { atomicVersion } from "./atomic-volume.ts";

/** linux/magic.h */
const TMPFS_MAGIC = 0x01021994;
const HUGETLBFS_MAGIC = 0x958458f6;

/** An emptyDir, and a directory of some volume for one container (pkg/volume/emptydir, pkg/volume/util/subpath). */
const EMPTY_DIR = /\/kubernetes\.io~empty-dir\/[^/]+$/;
/**
 * What the kubelet writes atomically (pkg/volume/{configmap,secret,projected,downwardapi}). Elsewhere such a link is the
 * data of whoever writes there, and what they write must not stay in a copy.
 */
const ATOMIC = /\/kubernetes\.io~(?:configmap|secret|projected|downward-api)\/[^/]+$/;
const SUB_PATH = /\/volume-subpaths\/[^/]+\/[^/]+\/\d+$/;

/** The part of a line of /proc/self/mountinfo (proc(5)) that matters here. */
interface MountLine {
  readonly device: string;
  readonly root: string;
  readonly point: string;
}

/** @param source an absolute path of the host. */
export function volumeKind(source: string): VolumeKind {
  if (ATOMIC.test(source) && atomicVersion(source) !== undefined) return { kind: "atomic" };
  const isEmptyDir = EMPTY_DIR.test(source);
  if (!isEmptyDir && !SUB_PATH.test(source)) return { kind: "plain" };
  const { type } = fs.statfsSync(source);
  if (type === HUGETLBFS_MAGIC) return { kind: "hugepages" };
  if (type !== TMPFS_MAGIC || !fs.statSync(source).isDirectory()) return { kind: "plain" };
  const volume = memoryVolume(source, fs.readFileSync("/proc/self/mountinfo", "utf8"));
  return volume === undefined ? { kind: "plain" } : { kind: "memory", volume };
}

/** @returns undefined when `source` is no mount, or one of a file system in memory that is no emptyDir. */
function memoryVolume(source: string, mountinfo: string): MemoryVolume | undefined {
  const lines = parseMounts(mountinfo);
  const own = lines.findLast(({ point }) => point === source);
  const whole = lines.find(({ device, point }) => device === own?.device && EMPTY_DIR.test(point));
  if (own === undefined || whole === undefined) return undefined;
  const { mode, uid, gid } = fs.statSync(whole.point);
  const { blocks, bsize } = fs.statfsSync(whole.point);
  return {
    identity: whole.device,
    subPath: own.root === "/" ? "" : own.root.slice(1),
    sizeBytes: blocks * bsize,
    mode: mode & 0o7777,
    uid,
    gid,
  };
}

function parseMounts(mountinfo: string): MountLine[] {
  return mountinfo.split("\n").map((line) => {
    const [, , device = "", root = "", point = ""] = line.split(" ");
    return { device, root, point };
  });
}
