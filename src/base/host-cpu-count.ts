/** The processors of this host. */
import { readFileSync } from "node:fs";
import { countOf } from "./cpu-list.ts";

/**
 * How many cpus the host has, whatever of them this process may use: a containerd that is pinned to some, or has a quota,
 * starts pods that have others.
 */
export function hostCpuCount(): number {
  return countOf(readFileSync("/sys/devices/system/cpu/online", "utf8"));
}
