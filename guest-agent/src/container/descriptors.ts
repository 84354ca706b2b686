/** File descriptors of a child before its execve. */
import * as sys from "sys";

/** F_DUPFD_CLOEXEC: F_LINUX_SPECIFIC_BASE (1024) + 6 of linux/fcntl.h. */
const F_DUPFD_CLOEXEC = 1030;
/** The highest number that close_range(2) takes. */
const MAX_FD = 0xffffffff;

/**
 * The descriptor, moved to 3 or above when it has one of the numbers of stdio (an init may start without any), so that
 * putting stdio in place cannot overwrite it.
 */
export function aboveStdio(fd: number): number {
  if (fd > 2) return fd;
  const moved = sys.fcntl(fd, F_DUPFD_CLOEXEC, 3);
  sys.close(fd);
  return moved;
}

/**
 * Closes everything above stderr except `kept`. A child that waits to be started would otherwise hold the agent's
 * ends of other containers' pipes open.
 */
export function closeAllBut(kept: readonly number[]): void {
  let first = 3;
  for (const fd of [...kept].filter((fd) => fd >= 3).sort((a, b) => a - b)) {
    if (fd > first) sys.closeRange(first, fd - 1);
    first = fd + 1;
  }
  sys.closeRange(first, MAX_FD);
}
