/** Reading /proc/self/mountinfo (proc(5)). Pure. */

/**
 * Mounts directly below the root of `mountinfo`, as relative paths: what hangs below one of them goes with
 * it. Without the mounts at and below `exceptPath`.
 */
export function topMountPoints(mountinfo: string, exceptPath: string): readonly string[] {
  const points = mountinfo
    .split("\n")
    .map((line) => line.split(" ")[4])
    .filter((path): path is string => path !== undefined && path !== "/")
    .map((path) =>
      path.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8))),
    )
    .filter((path) => path !== exceptPath && !path.startsWith(`${exceptPath}/`));
  const top = points.filter((path) => !points.some((other) => path.startsWith(`${other}/`)));
  return [...new Set(top)].map((path) => path.slice(1));
}
