/** What other processes do with a file, as callbacks; node:fs reports changes only, neither reads nor opens. */
import { native } from "./binding.ts";
import { closeFd, readFd } from "./fd.ts";
import { FdWatcher } from "./fd-watcher.ts";

/** IN_* of include/uapi/linux/inotify.h. */
export const FileEvent = { Read: 0x1, ClosedWriter: 0x8, ClosedReader: 0x10, Opened: 0x20 } as const;

/**
 * Calls `happened` whenever one of the events (a sum of `FileEvent`) was done to the file, ours included; several may
 * be reported as one. The caller calls the returned function, which ends it. Does not keep this process alive.
 * @throws an errno error, e.g. ENOENT.
 */
export function watchFile(path: string, events: number, happened: () => void): () => void {
  const fd = native().inotifyOpen(path, events);
  const record = new Uint8Array(4096);
  const watcher = new FdWatcher(fd, {
    readable: () => {
      readFd(fd, record);
      happened();
    },
  });
  watcher.watchReadable(true);
  watcher.unref();
  return () => {
    if (watcher.closed) return;
    watcher.close();
    closeFd(fd);
  };
}

/** How many bytes the pipe or socket `fd` holds for its reader. */
export function unreadBytes(fd: number): number {
  return native().unreadBytes(fd);
}
