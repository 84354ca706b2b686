/**
 * Finds and loads the addon, once, at the first use. The interface below is what the C files export, one to one; the
 * other files of this folder give it types that are pleasant to use.
 */
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { SandboxError } from "../base/errors.ts";

/** An object that only the addon can look into. */
export interface NativeWatcher {
  readonly __watcher: never;
}

/** Set, clear and propagation of the mount itself, then of it and all below. */
type SixNumbers = readonly [number, number, number, number, number, number];

/** The addon's exports (src/native/addon/*.c). Failures are errors with `code`, `errno` and `syscall`. */
export interface NativeBinding {
  readonly WOULD_BLOCK: -1;
  readonly READABLE: number;
  readonly WRITABLE: number;
  // fd.c
  readFd(fd: number, bytes: Uint8Array, offset: number, length: number): number;
  writeFd(fd: number, bytes: Uint8Array, offset: number, length: number): number;
  closeFd(fd: number): void;
  dupFd(fd: number): number;
  setCloexec(fd: number, on: boolean): void;
  openNonBlocking(path: string, flags: number, mode: number): number;
  socketPair(): [number, number];
  pipe(): [number, number];
  shutdownSocket(fd: number, how: 0 | 1 | 2): void;
  socketError(fd: number, syscall: string): void;
  sendWithFds(fd: number, bytes: Uint8Array, offset: number, length: number, fds: readonly number[]): number;
  receiveWithFds(
    fd: number,
    bytes: Uint8Array,
    offset: number,
    length: number,
  ): { bytesRead: number; fds: number[] };
  memfdCreate(name: string, sealing: boolean): number;
  sealMemfd(fd: number, seals: number): void;
  tryLock(fd: number, exclusive: boolean): boolean;
  lockFile(path: string, exclusive: boolean): Promise<number>;
  // pages.c
  copyPages(from: number, to: number): Promise<number>;
  // notify.c
  inotifyOpen(path: string, mask: number): number;
  unreadBytes(fd: number): number;
  // mount.c
  mount(
    source: string,
    target: string,
    fstype: string,
    flags: number,
    data: string | undefined,
    directory: string | undefined,
    beneath: string | undefined,
  ): Promise<void>;
  unmount(target: string, flags: number, beneath: string | undefined): Promise<void>;
  setMountAttributes(target: string, beneath: string | undefined, ...changes: SixNumbers): Promise<void>;
  bindMount(
    source: string,
    target: string,
    recursive: boolean,
    beneath: string | undefined,
    ...changes: SixNumbers
  ): Promise<void>;
  // process.c
  pidfdOpen(pid: number): number;
  pidfdSignal(pidfd: number, signal: number): boolean;
  setChildSubreaper(on: boolean): void;
  setProcessName(name: string): void;
  setsid(): number;
  reap(pid: number): { code: number } | { signal: number } | null;
  tscSample(): { ticks: number; nanoseconds: number } | null;
  // vsock.c
  vsockSocket(connectTimeoutMs: number): number;
  vsockConnect(fd: number, cid: number, port: number): boolean;
  vsockListen(fd: number, cid: number, port: number, backlog: number): void;
  vsockAddress(fd: number): { cid: number; port: number };
  vsockPeer(fd: number): { cid: number; port: number };
  acceptFd(fd: number): number | null;
  vsockLocalCid(): number;
  vhostVsockSetCid(fd: number, cid: number): boolean;
  // watcher.c
  watcherOpen(fd: number, onReady: (events: number) => void): NativeWatcher;
  watcherSet(watcher: NativeWatcher, events: number): void;
  watcherBroken(watcher: NativeWatcher): boolean;
  watcherRef(watcher: NativeWatcher, on: boolean): void;
  watcherClose(watcher: NativeWatcher): void;
}

let loaded: NativeBinding | undefined;

/**
 * The addon. Loaded at the first call: CAISSON_NATIVE when set, else `caisson.node` in `native/` beside the directory
 * of the running program (dist/bin), else in the repository's dist/native when running from its sources.
 * @throws SandboxError ERR_HOST when it is not there or cannot be loaded.
 */
export function native(): NativeBinding {
  loaded ??= load();
  return loaded;
}

/**
 * The same addon with the functions of a file that declares them itself (interface merging is not possible across the
 * folders of two authors): `nativeAs<NetBinding>()`.
 */
export function nativeAs<T extends object>(): NativeBinding & T {
  return native() as NativeBinding & T;
}

function load(): NativeBinding {
  const file = locate();
  const module: { exports: unknown } = { exports: {} };
  try {
    process.dlopen(module, file);
  } catch (error) {
    throw new SandboxError(
      "ERR_HOST",
      `cannot load the native addon ${file}: build it with "npm run build"`,
      {
        cause: error,
        fields: { path: file },
      },
    );
  }
  return module.exports as NativeBinding;
}

function locate(): string {
  const override = process.env.CAISSON_NATIVE;
  if (override !== undefined && override !== "") return override;
  const here = dirname(fileURLToPath(import.meta.url));
  const candidates = [join(here, "../native/caisson.node"), join(here, "../../dist/native/caisson.node")];
  const found = candidates.find((file) => existsSync(file));
  if (found !== undefined) return found;
  throw new SandboxError(
    "ERR_HOST",
    `the native addon is not at ${candidates.join(" or ")}: build it with "npm run build"`,
  );
}
