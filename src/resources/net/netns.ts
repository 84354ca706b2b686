/** Network namespaces given by path: opening, identity, and which ones are refused. */
import fs from "node:fs";
import { errnoOf, SandboxError } from "../../base/errors.ts";
import { closeFd } from "../../native/fd.ts";
import { runInNetns } from "../../native/net.ts";
import { errnoName } from "../../netlink/index.ts";

/** Tells whether a path still leads to the same namespace. */
export interface NetnsIdentity {
  readonly path: string;
  /** Device and inode of the nsfs file. */
  readonly device: number;
  readonly inode: number;
}

/** An open namespace; it lives at least as long as this. Release with close(). */
export interface Netns extends NetnsIdentity {
  readonly fd: number;
  close(): void;
}

const OWN_NETNS = "/proc/self/ns/net";
const HOST_NETNS = "/proc/1/ns/net";

/**
 * @throws SandboxError ERR_NOT_FOUND when nothing is at `path`, ERR_INVALID_ARGUMENT when it is not a network namespace.
 */
export function openNetns(path: string): Netns {
  let fd: number;
  try {
    fd = fs.openSync(path, "r");
  } catch (error) {
    const code = errnoOf(error) === "ENOENT" ? "ERR_NOT_FOUND" : "ERR_HOST";
    throw new SandboxError(code, `cannot open the network namespace ${path}`, {
      cause: error,
      fields: { path },
    });
  }
  const stat = fs.fstatSync(fd);
  let closed = false;
  const close = () => {
    if (closed) return;
    closed = true;
    closeFd(fd);
  };
  // Every namespace file is on the one nsfs of the kernel; a bind mount that is gone leaves a plain file.
  if (stat.dev !== fs.statSync(OWN_NETNS).dev) {
    close();
    throw new SandboxError("ERR_INVALID_ARGUMENT", `${path} is not a network namespace`, {
      fields: { path },
    });
  }
  return { path, fd, device: stat.dev, inode: stat.ino, close };
}

/**
 * A new, empty namespace, at a path that is good as long as this process lives and has not closed it. The namespace
 * itself lives as long as something is in it or holds it.
 * @throws SandboxError ERR_HOST
 */
export async function makeNetns(): Promise<Netns> {
  const [result] = await runInNetns(undefined, [{ do: "unshare-net" }]);
  const fd = result?.fd;
  if (fd === undefined) {
    throw new SandboxError("ERR_HOST", `cannot make a network namespace: ${errnoName(result?.errno ?? 0)}`);
  }
  const stat = fs.fstatSync(fd);
  const path = `/proc/${process.pid}/fd/${fd}`;
  let closed = false;
  const close = () => {
    if (!closed) closeFd(fd);
    closed = true;
  };
  return { path, fd, device: stat.dev, inode: stat.ino, close };
}

/** Whether `netns` is that of the host, or the one this process runs in. */
export function isHostNetns(netns: NetnsIdentity): boolean {
  return [OWN_NETNS, HOST_NETNS].some((path) => {
    try {
      const stat = fs.statSync(path);
      return stat.dev === netns.device && stat.ino === netns.inode;
    } catch {
      return false; // no /proc/1 in sight: a pid namespace with a hidden /proc
    }
  });
}

/** @throws SandboxError ERR_INVALID_ARGUMENT for the namespace of the host. */
export function refuseHostNetns(netns: NetnsIdentity): void {
  if (!isHostNetns(netns)) return;
  throw new SandboxError(
    "ERR_INVALID_ARGUMENT",
    `${netns.path} is the host's network namespace, which a microVM cannot share: run the pod without hostNetwork (ctr: without --net-host) or with another runtime`,
    { fields: { path: netns.path } },
  );
}
