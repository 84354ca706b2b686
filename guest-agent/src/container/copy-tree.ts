/** Copies a directory tree between descriptors, never following a symlink. Used for `tmpcopyup` mounts. */
import * as sys from "sys";
import {
  AT_EMPTY_PATH,
  AT_SYMLINK_NOFOLLOW,
  O_CREAT,
  O_EXCL,
  O_RDONLY,
  O_WRONLY,
  S_IFDIR,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
} from "../linux.ts";

const CHUNK = 65_536;

/**
 * Copies the content of directory `from` into directory `to`, with modes and owners; device nodes too.
 * Preconditions: the umask is 0; nothing else changes `to`.
 */
export function copyTree(from: number, to: number): void {
  const info = sys.fstatat(from, "", AT_EMPTY_PATH);
  sys.fchownat(to, "", info.uid, info.gid, AT_EMPTY_PATH);
  for (const name of sys.readdir(`/proc/self/fd/${from}`)) copyEntry(from, to, name);
  const writable = sys.openat(to, ".", O_RDONLY | sys.O_DIRECTORY, 0);
  sys.fchmod(writable, info.mode & 0o7777);
  sys.close(writable);
}

function copyEntry(from: number, to: number, name: string): void {
  const info = sys.fstatat(from, name, AT_SYMLINK_NOFOLLOW);
  const kind = info.mode & S_IFMT;
  if (kind === S_IFDIR) copyDirectory(from, to, name);
  else if (kind === S_IFREG) copyFile(from, to, name, info);
  else {
    if (kind === S_IFLNK) sys.symlinkat(sys.readlinkat(from, name), to, name);
    else sys.mknodat(to, name, info.mode, info.rdevMajor, info.rdevMinor);
    sys.fchownat(to, name, info.uid, info.gid, AT_SYMLINK_NOFOLLOW);
  }
}

function copyDirectory(from: number, to: number, name: string): void {
  sys.mkdirat(to, name, 0o700);
  const source = sys.openat(from, name, O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW, 0);
  const target = sys.openat(to, name, O_RDONLY | sys.O_DIRECTORY | sys.O_NOFOLLOW, 0);
  copyTree(source, target);
  sys.close(target);
  sys.close(source);
}

function copyFile(from: number, to: number, name: string, info: sys.Stat): void {
  const source = sys.openat(from, name, O_RDONLY | sys.O_NOFOLLOW, 0);
  const target = sys.openat(to, name, O_WRONLY | O_CREAT | O_EXCL | sys.O_NOFOLLOW, 0o600);
  const buffer = new Uint8Array(CHUNK);
  for (let n = sys.read(source, buffer); n > 0; n = sys.read(source, buffer)) {
    for (let sent = 0; sent < n; ) sent += sys.write(target, buffer, sent, n - sent);
  }
  // In this order: a change of owner clears the set-user-id bits.
  sys.fchownat(target, "", info.uid, info.gid, AT_EMPTY_PATH);
  sys.fchmod(target, info.mode & 0o7777);
  sys.close(target);
  sys.close(source);
}
