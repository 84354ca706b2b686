/** vhost-net: the host kernel moves frames between tap and guest memory. */
import fs from "node:fs";
import { SandboxError } from "../../base/errors.ts";
import { closeFd } from "../../native/fd.ts";

/** "auto": where the host has it. "on": refuse a host without. */
export type VhostMode = "auto" | "on" | "off";

export const VHOST_NET = "/dev/vhost-net";

/**
 * One descriptor a queue, which the caller closes; none where vhost-net is off or absent.
 * @param absent told why, for "auto" on a host without it.
 * @throws SandboxError ERR_HOST for "on" on a host without it.
 */
export function openVhost(mode: VhostMode, queues: number, absent: (error: unknown) => void): number[] {
  if (mode === "off") return [];
  const fds: number[] = [];
  try {
    for (let i = 0; i < queues; i++) fds.push(fs.openSync(VHOST_NET, "r+"));
    return fds;
  } catch (error) {
    for (const fd of fds) closeFd(fd);
    if (mode === "on") {
      throw new SandboxError("ERR_HOST", `cannot open ${VHOST_NET}: load the module vhost_net`, {
        cause: error,
      });
    }
    absent(error);
    return [];
  }
}
