/** The cgroup hierarchies of this host: one of version 2, several of version 1, or both (hybrid). Pure. */

export interface Hierarchy {
  readonly version: 1 | 2;
  /** Directory at which its root is mounted. */
  readonly mountPoint: string;
  /** Which cgroup is mounted there: "/" but in containers. */
  readonly root: string;
  /** Of version 1: "cpu", "memory", "name=systemd". Those of version 2 stand in a file of each cgroup. */
  readonly controllers: readonly string[];
}

/** Every hierarchy in the text of /proc/self/mountinfo (proc(5)), each once. */
export function parseHierarchies(mountinfo: string): Hierarchy[] {
  const found = new Map<string, Hierarchy>();
  for (const line of mountinfo.split("\n")) {
    const fields = line.split(" ");
    const dash = fields.indexOf("-");
    const [root = "", mountPoint = ""] = fields.slice(3, 5);
    const [type, , options = ""] = fields.slice(dash + 1);
    if (dash < 0 || (type !== "cgroup" && type !== "cgroup2")) continue;
    const controllers = type === "cgroup2" ? [] : options.split(",").filter((word) => !GENERAL.has(word));
    const key = controllers.join(",");
    if (!found.has(key)) {
      found.set(key, { version: type === "cgroup2" ? 2 : 1, mountPoint, root, controllers });
    }
  }
  return [...found.values()];
}

/** Options of a cgroup file system that are no controllers (cgroups(7)). */
const GENERAL = new Set(["rw", "ro", "noprefix", "xattr", "clone_children", "none"]);

/** The directory of `hierarchy` in which a process is, by the text of its /proc/PID/cgroup. */
export function ownDirectory(hierarchy: Hierarchy, procCgroup: string): string {
  const { mountPoint, root, version, controllers } = hierarchy;
  for (const line of procCgroup.split("\n")) {
    // number:controllers:path; the path may hold colons.
    const [, names = "", path = ""] = /^\d+:([^:]*):(.*)$/.exec(line) ?? [];
    const same = version === 2 ? line.startsWith("0::") : names === controllers.join(",");
    if (!same) continue;
    const below =
      root === "/" ? path : path === root ? "" : path.slice(path.startsWith(`${root}/`) ? root.length : 0);
    // What lies outside of the mounted part cannot be named.
    return below === "" || below === "/" || below.startsWith("/..") ? mountPoint : `${mountPoint}${below}`;
  }
  return mountPoint;
}
