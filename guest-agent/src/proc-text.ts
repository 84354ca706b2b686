/** Text formats of /proc and /sys. Pure. */

/** The value of a "Key:   1234 kB" line of /proc/meminfo in bytes; 0 when absent. */
export function meminfoBytes(text: string, key: string): bigint {
  const start = text.startsWith(`${key}:`) ? 0 : text.indexOf(`\n${key}:`);
  if (start < 0) return 0n;
  const from = text.indexOf(":", start) + 1;
  const words = text.slice(from, text.indexOf("\n", from)).trim().split(" ");
  return BigInt(words[0] ?? "0") * 1024n;
}

/** The number of CPUs in a list such as "0-3,5" (Documentation/admin-guide/cputopology.rst). */
export function countCpus(list: string): number {
  let count = 0;
  for (const part of list.trim().split(",")) {
    if (part === "") continue;
    const dash = part.indexOf("-");
    count += dash < 0 ? 1 : Number(part.slice(dash + 1)) - Number(part.slice(0, dash)) + 1;
  }
  return count;
}
