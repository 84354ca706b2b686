/**
 * Directories that the kubelet writes atomically (ConfigMap, Secret, projected and downward API volumes; Kubernetes
 * pkg/volume/util/atomic_writer.go): the files are in a directory named by time, `..data` links to it, each visible name
 * links to `..data/<name>`, and an update is a new directory and one rename of `..data`.
 *
 * A guest that reads such files through virtio-fs sees an update, but no inotify event: only the host's kernel knows. So
 * the host watches, and the guest makes the same change in a copy of its own.
 */
import fs from "node:fs";
import path from "node:path";

const LINK = "..data";
/** A directory beside the link, which no visible name can be. */
const VERSION = /^\.\.[^/]+$/;

/** Name of the directory that holds the current files of `dir`; undefined when `dir` is not written atomically. */
export function atomicVersion(dir: string): string | undefined {
  try {
    const version = fs.readlinkSync(path.join(dir, LINK));
    return VERSION.test(version) && fs.statSync(path.join(dir, version)).isDirectory() ? version : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Calls `changed` after each exchange of the files in `dir`, which may have been several by then. The caller closes it.
 * @throws when the directory cannot be watched (out of inotify watches, say).
 */
export function watchAtomicVolume(
  dir: string,
  changed: () => void,
  failed: (error: Error) => void,
): { close(): void } {
  const watcher = fs.watch(dir, { persistent: false }, (_event, name) => {
    if (name === LINK) changed();
  });
  watcher.on("error", failed);
  return watcher;
}
