/** Text formats of /proc and /sys. Pure. */

/** The value of a "Key:   1234 kB" line of /proc/meminfo in bytes; 0 when absent. */
export function meminfoBytes(text: string, key: string): bigint {
  const start = text.startsWith(`${key}:`) ? 0 : text.indexOf(`\n${key}:`);
  if (start < 0) return 0n;
  const from = text.indexOf(":", start) + 1;
  const [, number] = /^[ \t]*(\d{1,18}) /.exec(text.slice(from, from + 40)) ?? [];
  return BigInt(number ?? 0) * 1024n;
}

/** Ticks that all processors were busy: the first line of /proc/stat less idle and iowait (proc_stat(5)); and in the kernel. */
export function busyTicks(stat: string): { readonly all: bigint; readonly kernel: bigint } {
  const [user = 0n, nice = 0n, system = 0n, , , irq = 0n, softirq = 0n, steal = 0n] = (
    /^cpu +(.*)$/m.exec(stat)?.[1] ?? ""
  )
    .split(" ")
    .filter((field) => /^\d+$/.test(field))
    .map(BigInt);
  const kernel = system + irq + softirq;
  return { all: user + nice + kernel + steal, kernel };
}

/** The number after the slash of /proc/loadavg (proc_loadavg(5)). */
export const threadCount = (loadavg: string): number => Number(/\/(\d+)/.exec(loadavg)?.[1] ?? 0);

/** Bytes of the free blocks of less than 2^`order` pages of /proc/buddyinfo (proc(5)): per line those of 2^0, 2^1, … pages. */
export function freeBytesBelow(buddyinfo: string, order: number): number {
  let pages = 0;
  for (const [, counts = ""] of buddyinfo.matchAll(/^Node +\d+, zone +\w+ +([\d ]+)$/gm)) {
    for (const [at, count] of counts.trim().split(/ +/).slice(0, order).entries())
      pages += Number(count) * 2 ** at;
  }
  return pages * 4096;
}
