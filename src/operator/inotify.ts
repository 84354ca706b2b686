/** The inotify instances that root's programs share (inotify(7)): the shim of a pod with a ConfigMap or Secret takes one. */
import fs from "node:fs";

/** Pods of a node, as the kubelet has it (its maxPods), and what Kubernetes' own programs suggest for a node. */
const PODS = 110;
const SUGGESTED = 8192;

export interface InotifyFinding {
  readonly found: string;
  /** Empty where there is room for the pods of a node. */
  readonly remedy: string;
}

/**
 * @param limit text of fs.inotify.max_user_instances
 * @param taken instances of root's programs
 */
export function inotifyInstances(limit: string, taken: number): InotifyFinding {
  const most = Number.parseInt(limit, 10);
  if (Number.isNaN(most)) return { found: "the limit of inotify instances cannot be read", remedy: "" };
  const found = `${taken} of ${most} instances are taken`;
  if (most - taken >= PODS) return { found, remedy: "" };
  return {
    found: `${found}; without one, a pod with a ConfigMap or Secret sees its changes without inotify events`,
    remedy: `sysctl fs.inotify.max_user_instances=${SUGGESTED}, and the same in a file of /etc/sysctl.d`,
  };
}

/** How many descriptors of root's processes are inotify instances; of other users' processes none is seen without root. */
export function takenInstances(): number {
  const processes = fs.readdirSync("/proc").filter((name) => /^\d+$/.test(name));
  return processes.filter(isRoots).reduce((sum, pid) => sum + instancesOf(pid), 0);
}

function isRoots(pid: string): boolean {
  try {
    return fs.statSync(`/proc/${pid}`).uid === 0;
  } catch {
    return false; // it has ended
  }
}

/** 0 for one that has ended or may not be looked at. */
export function instancesOf(pid: string): number {
  try {
    return fs.readdirSync(`/proc/${pid}/fd`).filter((fd) => isInotify(`/proc/${pid}/fd/${fd}`)).length;
  } catch {
    return 0;
  }
}

function isInotify(link: string): boolean {
  try {
    return fs.readlinkSync(link) === "anon_inode:inotify";
  } catch {
    return false;
  }
}
