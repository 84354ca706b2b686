/** Descriptors: what Node's own modules lack. Every function throws an error with `code`, `errno` and `syscall`. */
import { native } from "./binding.ts";

/** Reads at most `length` bytes into `bytes`. @returns the count, 0 at the end, or "again" when nothing is there yet. */
export function readFd(
  fd: number,
  bytes: Uint8Array,
  offset = 0,
  length = bytes.length - offset,
): number | "again" {
  const count = native().readFd(fd, bytes, offset, length);
  return count < 0 ? "again" : count;
}

/** Writes what fits now. @returns the count, or "again" when nothing fits yet. */
export function writeFd(
  fd: number,
  bytes: Uint8Array,
  offset = 0,
  length = bytes.length - offset,
): number | "again" {
  const count = native().writeFd(fd, bytes, offset, length);
  return count < 0 ? "again" : count;
}

/** Closes a descriptor. Its watcher must be closed before. */
export function closeFd(fd: number): void {
  native().closeFd(fd);
}

/** A copy (CLOEXEC) of a descriptor; the caller closes it. */
export function dupFd(fd: number): number {
  return native().dupFd(fd);
}

/** Sets or clears FD_CLOEXEC. */
export function setCloexec(fd: number, on: boolean): void {
  native().setCloexec(fd, on);
}

/**
 * open(2) on the calling thread with O_NONBLOCK, O_CLOEXEC and O_NOCTTY added, so that a FIFO never blocks it.
 * @param flags `fs.constants.O_*`. O_WRONLY on a FIFO without a reader is ENXIO; O_RDWR always succeeds.
 * @returns a descriptor that the caller closes.
 */
export function openNonBlocking(path: string, flags: number, mode = 0o600): number {
  return native().openNonBlocking(path, flags, mode);
}

/** Two connected unix stream sockets, non-blocking, CLOEXEC; the caller closes both. */
export function socketPair(): [number, number] {
  return native().socketPair();
}

/** A pipe, [read end, write end], non-blocking, CLOEXEC; the caller closes both. */
export function makePipe(): [number, number] {
  return native().pipe();
}

/**
 * Sends bytes with descriptors attached (SCM_RIGHTS) over a unix socket. The descriptors go with the first byte; they
 * stay open here.
 * @param bytes at least one.
 * @returns how many bytes were taken (send the rest without descriptors), or "again" when nothing fits yet.
 */
export function sendWithFds(socketFd: number, bytes: Uint8Array, fds: readonly number[]): number | "again" {
  const count = native().sendWithFds(socketFd, bytes, 0, bytes.length, fds);
  return count < 0 ? "again" : count;
}

/** Receives bytes and descriptors (CLOEXEC, the caller closes them); 0 bytes is the end. */
export function receiveWithFds(
  socketFd: number,
  bytes: Uint8Array,
): { bytesRead: number; fds: number[] } | "again" {
  const received = native().receiveWithFds(socketFd, bytes, 0, bytes.length);
  return received.bytesRead < 0 ? "again" : received;
}

/** F_SEAL_* of include/uapi/linux/fcntl.h. */
export const Seal = { Seal: 0x1, Shrink: 0x2, Grow: 0x4, Write: 0x8 } as const;

/** An empty file in memory (CLOEXEC); the caller closes it. Only with `sealing` can it be sealed later. */
export function memfdCreate(name: string, options: { readonly sealing?: boolean } = {}): number {
  return native().memfdCreate(name, options.sealing ?? false);
}

/** Adds seals (a sum of `Seal`) to a memory file made with `sealing`. */
export function sealMemfd(fd: number, seals: number): void {
  native().sealMemfd(fd, seals);
}

/** flock(2) without waiting. @returns false when somebody else holds the lock. */
export function tryLock(fd: number, kind: "exclusive" | "shared" = "exclusive"): boolean {
  return native().tryLock(fd, kind === "exclusive");
}

/**
 * Opens (creating it, 0600) and locks a file, or a directory, waiting for other holders until `signal` aborts.
 * @returns a descriptor; closing it releases the lock.
 */
export async function lockFile(
  path: string,
  signal: AbortSignal,
  kind: "exclusive" | "shared" = "exclusive",
): Promise<number> {
  signal.throwIfAborted();
  // The waiting thread cannot be called back: what it still gets after an abort is closed at once.
  const locked = native().lockFile(path, kind === "exclusive");
  return new Promise<number>((resolve, reject) => {
    const abort = () => {
      reject(signal.reason);
      locked.then(closeFd, () => undefined);
    };
    signal.addEventListener("abort", abort, { once: true });
    locked.then(resolve, reject).finally(() => signal.removeEventListener("abort", abort));
  });
}

/**
 * Makes `to` as long as `from` and writes those pages (of 4 KiB) of it in which something is: into an empty file, a copy
 * that takes no more room than it must. On a thread of its own; both may be closed meanwhile. Moves the offset of `from`.
 * @returns the bytes written
 */
export function copyPages(from: number, to: number): Promise<number> {
  return native().copyPages(from, to);
}
