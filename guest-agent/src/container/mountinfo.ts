/** Reading /proc/self/mountinfo (proc(5)). Pure. */

/**
 * Mounts directly below the root of `mountinfo`, as relative paths: what hangs below one of them goes with
 * it. Without the mounts at and below `exceptPath`.
 */
export function topMountPoints(mountinfo: string, exceptPath: string): readonly string[] {
  const except = `${exceptPath}/`;
  const top: string[] = [];
  for (const line of mountinfo.split("\n")) {
    const path = mountPoint(line);
    if (path === undefined || path === "/" || `${path}/`.startsWith(except)) continue;
    if (top.some((other) => `${path}/`.startsWith(`${other}/`))) continue;
    // A mount may be listed before what it hangs below.
    const kept = top.filter((other) => !other.startsWith(`${path}/`));
    top.splice(0, top.length, ...kept, path);
  }
  return top.map((path) => path.slice(1));
}

/** The fifth field, in which blanks and the like are octal escapes. */
function mountPoint(line: string): string | undefined {
  let start = 0;
  for (let field = 0; field < 4; field++) {
    start = line.indexOf(" ", start) + 1;
    if (start === 0) return undefined;
  }
  const end = line.indexOf(" ", start);
  const path = line.slice(start, end < 0 ? line.length : end);
  if (!path.includes("\\")) return path;
  return path.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}
