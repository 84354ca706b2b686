/** This process's open descriptors, for tests that nothing is left open. */
import assert from "node:assert/strict";
import { readdirSync, readlinkSync } from "node:fs";

/** "NUMBER TARGET" of each open descriptor, e.g. "17 socket:[4711]". */
export function openDescriptors(): Set<string> {
  const open = new Set<string>();
  for (const fd of readdirSync("/proc/self/fd")) {
    const target = targetOf(fd);
    if (target !== undefined && !/^\/proc\/\d+\/fd$/.test(target)) open.add(`${fd} ${target}`);
  }
  return open;
}

function targetOf(fd: string): string | undefined {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`);
  } catch {
    return undefined; // that of the listing itself
  }
}

/** Those opened after `before` was taken that are still open. What others close meanwhile does not count. */
export const openedSince = (before: ReadonlySet<string>): string[] =>
  [...openDescriptors()].filter((descriptor) => !before.has(descriptor));

/** @throws AssertionError naming them. */
export function assertNoneOpenedSince(before: ReadonlySet<string>): void {
  assert.deepEqual(openedSince(before), [], "descriptors were left open");
}
