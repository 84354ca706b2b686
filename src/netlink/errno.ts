/** Names of errno numbers, as the kernel's headers spell them. */
import { constants } from "node:os";

/** Where two names share a number (EAGAIN and EWOULDBLOCK, EOPNOTSUPP and ENOTSUP), the kernel's own. */
const preferred: Readonly<Record<number, string>> = { 11: "EAGAIN", 95: "EOPNOTSUPP" };

/** 17 gives "EEXIST"; an unknown number "E<number>". */
export function errnoName(errno: number): string {
  const known = preferred[errno];
  if (known !== undefined) return known;
  for (const [name, value] of Object.entries(constants.errno)) {
    if (value === errno) return name;
  }
  return `E${errno}`;
}

/** Errno numbers of Linux (asm-generic/errno-base.h and errno.h) that this layer decides on. */
export const Errno = {
  EPERM: 1,
  ENOENT: 2,
  ENXIO: 6,
  EBUSY: 16,
  EEXIST: 17,
  ENODEV: 19,
  EINVAL: 22,
  ESRCH: 3,
  EADDRNOTAVAIL: 99,
  EOPNOTSUPP: 95,
  EAFNOSUPPORT: 97,
  EPROTONOSUPPORT: 93,
  ENOBUFS: 105,
  ECANCELED: 125,
} as const;
