/** Lists of cpus and memory nodes in the kernel's format (cpuset(7), "List format"): "0-1,4". */
import { readFileSync } from "node:fs";

/** Most cpus of a Linux host (CONFIG_NR_CPUS of x86). */
const MAX_CPU = 8191;

/**
 * How many cpus the host has, whatever of them this process may use: a containerd that is pinned to some, or has a quota,
 * starts pods that have others.
 */
export function hostCpuCount(): number {
  return numbersOf([readFileSync("/sys/devices/system/cpu/online", "utf8")]).size;
}

/** All numbers of some lists as one list; what is no list counts as empty. */
export function unionOf(lists: readonly unknown[]): string {
  const ranges: [number, number][] = [];
  for (const number of [...numbersOf(lists)].sort((a, b) => a - b)) {
    const range = ranges.at(-1);
    if (range !== undefined && range[1] === number - 1) range[1] = number;
    else ranges.push([number, number]);
  }
  return ranges.map(([first, last]) => (first === last ? `${first}` : `${first}-${last}`)).join(",");
}

function numbersOf(lists: readonly unknown[]): ReadonlySet<number> {
  const numbers = new Set<number>();
  for (const list of lists) {
    for (const part of typeof list === "string" ? list.split(",") : []) {
      const [, first, last = first] = /^\s*(\d{1,4})(?:-(\d{1,4}))?\s*$/.exec(part) ?? [];
      for (let at = Number(first ?? MAX_CPU + 1); at <= Math.min(Number(last), MAX_CPU); at++)
        numbers.add(at);
    }
  }
  return numbers;
}
