/** Names of kernel parameters. Pure. */
import { SandboxError } from "../../../src/base/errors.ts";

/**
 * The file of a sysctl key, as sysctl(8) reads it: where the first separator is ".", "." separates and "/" stands for
 * a dot inside a name ("net.ipv4.conf.eth0/100.forwarding"); otherwise "/" separates.
 * @throws ERR_SPEC for a key that would leave /proc/sys.
 */
export function sysctlPath(key: string): string {
  const first = key.search(/[./]/);
  const swap = (c: string) => (c === "." ? "/" : ".");
  const path = first >= 0 && key[first] === "." ? key.replace(/[./]/g, swap) : key;
  const parts = path.split("/");
  if (parts.length < 2 || parts.some((part) => part === "" || part === "." || part === "..")) {
    throw new SandboxError("ERR_SPEC", `linux.sysctl: "${key}" is not a name of a kernel parameter`);
  }
  return `/proc/sys/${path}`;
}
