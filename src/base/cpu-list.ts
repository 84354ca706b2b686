/** Lists of cpus and memory nodes in the kernel's format (cpuset(7), "List format"): "0-1,4". Pure. */

/** Most cpus of a Linux host (CONFIG_NR_CPUS of x86). */
const MAX_CPU = 8191;

/** How many numbers a list has; what is no list counts as empty. */
export function countOf(list: string): number {
  return rangesOf([list]).reduce((count, [first, last]) => count + last - first + 1, 0);
}

/** All numbers of some lists as one list; what is no list counts as empty. */
export function unionOf(lists: readonly unknown[]): string {
  return rangesOf(lists)
    .map(([first, last]) => (first === last ? `${first}` : `${first}-${last}`))
    .join(",");
}

/** The numbers of some lists as ranges, in their order and with gaps between them. */
function rangesOf(lists: readonly unknown[]): [first: number, last: number][] {
  const ranges: [first: number, last: number][] = [];
  const parts = lists.flatMap((list) => (typeof list === "string" ? list.split(",") : []));
  const given = parts.map(rangeOf).filter(([first, last]) => first <= last);
  for (const [first, last] of given.sort(([a], [b]) => a - b)) {
    const before = ranges.at(-1);
    if (before === undefined || first > before[1] + 1) ranges.push([first, last]);
    else before[1] = Math.max(before[1], last);
  }
  return ranges;
}

/** "3" or "0-3"; a range that is empty when it is none. */
function rangeOf(part: string): [first: number, last: number] {
  const [, first, last = first] = /^\s*(\d{1,4})(?:-(\d{1,4}))?\s*$/.exec(part) ?? [];
  return first === undefined ? [1, 0] : [Number(first), Math.min(Number(last), MAX_CPU)];
}
