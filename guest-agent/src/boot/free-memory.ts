/** What the guest's kernel does with its free memory, which the host pays for unless it is given back, or empty when it is saved. */
import * as sys from "sys";
import { describeError } from "../../../src/base/errors.ts";
import type { Log } from "../../../src/base/log.ts";
import { newFileSystem } from "../container/mounts.ts";
import { readText, writeKernelFile } from "../files.ts";
import { memoryBytes } from "../guest-facts.ts";
import { F_SETPIPE_SZ, O_CREAT, O_WRONLY, sysCode } from "../linux.ts";
import { freeBytesBelow } from "../proc-text.ts";

/**
 * The part of the memory that the processors' own lists of free pages may hold (admin-guide/sysctl/vm.rst; Linux 5.14). Without it
 * Linux 6.12 lets them have an eighth, and what they have is neither free by the kernel's own count nor given back.
 */
const LISTS_FRACTION = 256;
const LISTS = "/proc/sys/vm/percpu_pagelist_high_fraction";

/** Order of the blocks (2 MiB) from which on the kernel reports what is free (pageblock_order, mm/page_reporting.c). */
const REPORTED_ORDER = 9;
const CHUNK_BYTES = 1 << 16;

/** Keeps free pages where they can be given back. */
export function shortenFreeLists(log: Log): void {
  try {
    writeKernelFile(LISTS, String(LISTS_FRACTION));
  } catch (error) {
    if (sysCode(error) !== "ENOENT")
      log.warn({ path: LISTS, err: describeError(error) }, "the lists of free pages keep their length");
  }
}

/**
 * Clears the free pages that are not reported to the host, and so not taken from the guest: those of small blocks, which the kernel
 * hands out first. It keeps pages that can be moved apart from others, so a file takes the ones and a pipe the others.
 * @throws SysError
 */
export function clearFreeMemory(): void {
  const inSmallBlocks = freeBytesBelow(readText("/proc/buddyinfo") ?? "", REPORTED_ORDER);
  // Never so much that the kernel has to look for memory.
  const bytes = Math.min(inSmallBlocks, Number(memoryBytes().available) / 2);
  const [out, into] = sys.pipe2(0);
  try {
    sys.fcntl(into, F_SETPIPE_SZ, bytes);
    writeZeros(into, bytes);
  } finally {
    for (const fd of [out, into]) sys.close(fd);
  }
  const directory = newFileSystem("tmpfs", "tmpfs", []);
  try {
    const file = sys.openat(directory, "zeros", O_WRONLY | O_CREAT, 0o600);
    try {
      writeZeros(file, bytes);
    } finally {
      sys.close(file);
    }
  } finally {
    sys.close(directory);
  }
}

function writeZeros(fd: number, bytes: number): void {
  const zeros = new Uint8Array(CHUNK_BYTES);
  for (let left = bytes; left > 0; ) left -= sys.write(fd, zeros, 0, Math.min(left, CHUNK_BYTES));
}
