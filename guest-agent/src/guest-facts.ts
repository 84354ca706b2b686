/** Facts about the guest, read from /proc and /sys. */
import * as sys from "sys";
import { countOf } from "../../src/base/cpu-list.ts";
import { readText } from "./files.ts";
import { busyTicks, meminfoBytes, threadCount } from "./proc-text.ts";

const PAGE_BYTES = 4096n;
/** USER_HZ is 100 (include/uapi/asm-generic/param.h). */
const MICROSECONDS_PER_TICK = 10_000n;

export function memoryBytes(): { total: bigint; available: bigint } {
  const text = readText("/proc/meminfo") ?? "";
  return { total: meminfoBytes(text, "MemTotal"), available: meminfoBytes(text, "MemAvailable") };
}

export function onlineCpus(): number {
  return countOf(readText("/sys/devices/system/cpu/online") ?? "0");
}

/** Resident set of this process in bytes (proc_pid_statm(5), second field, pages). */
export function ownRssBytes(): bigint {
  const fields = (readText("/proc/self/statm") ?? "").split(" ");
  return BigInt(fields[1] ?? "0") * PAGE_BYTES;
}

const ticks = () => busyTicks(readText("/proc/stat") ?? "");
let ticksBefore = { all: 0n, kernel: 0n };

/** What the guest has used until now is not its pod's: it is about to be saved. */
export function forgetCpuTime(): void {
  ticksBefore = ticks();
}

/** Microseconds that the processors were busy for this pod, and how many of them in the kernel. */
export function cpuTime(): { readonly all: bigint; readonly kernel: bigint } {
  const now = ticks();
  return {
    all: (now.all - ticksBefore.all) * MICROSECONDS_PER_TICK,
    kernel: (now.kernel - ticksBefore.kernel) * MICROSECONDS_PER_TICK,
  };
}

export const threads = (): number => threadCount(readText("/proc/loadavg") ?? "");

export const kernelRelease = (): string => sys.kernelRelease();
