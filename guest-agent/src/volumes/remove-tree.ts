/** Removes a directory of the agent's own with all that is in it. */
import * as sys from "sys";
import { AT_FDCWD, AT_REMOVEDIR, AT_SYMLINK_NOFOLLOW, S_IFDIR, S_IFMT } from "../linux.ts";

/** Preconditions: nothing is mounted below, and nobody else writes there. @throws SysError */
export function removeTree(path: string): void {
  const { mode } = sys.fstatat(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW);
  const isDirectory = (mode & S_IFMT) === S_IFDIR;
  if (isDirectory) for (const name of sys.readdir(path)) removeTree(`${path}/${name}`);
  sys.unlinkat(AT_FDCWD, path, isDirectory ? AT_REMOVEDIR : 0);
}
