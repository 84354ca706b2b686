/** What the guest's kernel does with its free memory, which the host pays for unless it is given back, or empty when it is saved. */
import * as sys from "sys";
import { describeError } from "../../../src/base/errors.ts";
import type { Log } from "../../../src/base/log.ts";
import { newFileSystem } from "../container/mounts.ts";
import { readText, writeKernelFile } from "../files.ts";
import { O_CREAT, O_WRONLY, sysCode } from "../linux.ts";
import { meminfoBytes } from "../proc-text.ts";

/**
 * The part of the memory that the processors' own lists of free pages may hold (admin-guide/sysctl/vm.rst; Linux 5.14). Without it
 * Linux 6.12 lets them have an eighth, and what they have is neither free by the kernel's own count nor given back.
 */
const LISTS_FRACTION = 256;
const LISTS = "/proc/sys/vm/percpu_pagelist_high_fraction";

/** Left alone, so that the kernel need not look for memory: several times its reserves in 256 MiB (min_free_kbytes is 1.8 MiB). */
const RESERVE_BYTES = 6 << 20;
/** In a large guest, for what has never been used is empty anyway. */
const MOST_BYTES = 512 << 20;
const CHUNK_BYTES = 1 << 18;

/** Keeps free pages where they can be given back. */
export function shortenFreeLists(log: Log): void {
  try {
    writeKernelFile(LISTS, String(LISTS_FRACTION));
  } catch (error) {
    if (sysCode(error) !== "ENOENT")
      log.warn({ path: LISTS, err: describeError(error) }, "the lists of free pages keep their length");
  }
}

/** Clears what is free: a file of zeros takes it and is gone again. @throws SysError */
export function clearFreeMemory(): void {
  const free = Number(meminfoBytes(readText("/proc/meminfo") ?? "", "MemFree"));
  const bytes = Math.min(free - RESERVE_BYTES, MOST_BYTES);
  if (bytes <= 0) return;
  const directory = newFileSystem("tmpfs", "tmpfs", [["size", String(bytes)]]);
  try {
    const file = sys.openat(directory, "zeros", O_WRONLY | O_CREAT, 0o600);
    try {
      const zeros = new Uint8Array(CHUNK_BYTES);
      for (let left = bytes; left > 0; ) left -= sys.write(file, zeros, 0, Math.min(left, CHUNK_BYTES));
    } finally {
      sys.close(file);
    }
  } finally {
    sys.close(directory);
  }
}
