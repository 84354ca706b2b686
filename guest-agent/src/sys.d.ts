/**
 * The native module "sys": raw system calls (native/sys_*.c here; what native/container_*.c adds is
 * typed in src/container/). Each function throws SysError on
 * failure, never EINTR. Descriptors that a call makes are close-on-exec. "-1" results mean EAGAIN.
 */
declare module "sys" {
  /** What every function throws for a failed system call. */
  export interface SysError extends Error {
    readonly code: string;
    readonly errno: number;
    readonly syscall: string;
  }
  type Bytes = Uint8Array | ArrayBuffer;

  // ---- native/main.c ----
  /** The function that the process calls for ever; it waits for events and dispatches them. */
  export function setTurn(turn: () => void): void;
  /** Told of a rejection without a handler (`handled` false) and of a handler attached later (true). */
  export function setRejectionHandler(
    handler: (promise: Promise<unknown>, reason: unknown, handled: boolean) => void,
  ): void;
  /** Runs the promise jobs until none is left. */
  export function runJobs(): void;
  export function queueJob(job: () => void): void;
  /** CLOCK_BOOTTIME at the start of the program, in microseconds. */
  export function startedUs(): number;
  /** Frees unreachable cycles now. */
  export function collectGarbage(): void;

  // ---- native/message_*.c: explained in src/proto/messages.ts ----
  export interface MessageSchema {
    readonly typeName: string;
  }
  type Message = Readonly<Record<string, unknown>>;
  export function messageSchemas(packageName: string, table: string): MessageSchema[];
  export function createMessage(schema: MessageSchema, init?: object): Message;
  /** Behind `reserve` zero bytes, 16 at most. */
  export function encodeMessage(schema: MessageSchema, message: object, reserve?: number): Uint8Array;
  /** Byte fields are views of `bytes`. @throws RangeError */
  export function decodeMessage(schema: MessageSchema, bytes: Uint8Array): Message;

  // ---- native/sys_file.c ----
  export const O_DIRECTORY: number;
  export const O_NOFOLLOW: number;
  export const O_PATH: number;
  export function openat(dirfd: number, path: string, flags: number, mode: number): number;
  export function openat2(dirfd: number, path: string, flags: number, mode: number, resolve: number): number;
  export function close(fd: number): void;
  /** Bytes read, 0 at the end, -1 for EAGAIN. */
  export function read(fd: number, into: Bytes, offset?: number, length?: number): number;
  /** Bytes written, -1 for EAGAIN. */
  export function write(fd: number, from: Bytes, offset?: number, length?: number): number;
  export function lseek(fd: number, offset: number, whence: number): number;
  /** @throws EFBIG when the file holds more than `limit` bytes. */
  export function readFile(path: string, limit: number): ArrayBuffer;
  /** Opens with `flags` (O_WRONLY, ...), writes all, closes. */
  export function writeFile(path: string, content: Bytes | string, flags: number, mode: number): void;
  /** [read end, write end]. */
  export function pipe2(flags: number): [number, number];
  export function dup3(from: number, to: number, flags: number): number;
  export function fcntl(fd: number, command: number, argument: number): number;
  export function ftruncate(fd: number, length: number): void;
  export function mkdirat(dirfd: number, path: string, mode: number): void;
  export function mknodat(dirfd: number, path: string, mode: number, major: number, minor: number): void;
  export function symlinkat(target: string, dirfd: number, path: string): void;
  export function linkat(fromDirfd: number, from: string, toDirfd: number, to: string, flags: number): void;
  export function unlinkat(dirfd: number, path: string, flags: number): void;
  export function renameat2(
    fromDirfd: number,
    from: string,
    toDirfd: number,
    to: string,
    flags: number,
  ): void;
  export function readlinkat(dirfd: number, path: string): string;
  export interface Stat {
    readonly mode: number;
    readonly uid: number;
    readonly gid: number;
    readonly size: number;
    readonly ino: number;
    readonly dev: number;
    readonly ctimeNs: bigint;
    readonly nlink: number;
    readonly rdevMajor: number;
    readonly rdevMinor: number;
  }
  /** `flags`: AT_SYMLINK_NOFOLLOW, AT_EMPTY_PATH. */
  export function fstatat(dirfd: number, path: string, flags: number): Stat;
  export interface StatFs {
    /** Magic number of linux/magic.h. */
    readonly type: number;
    readonly flags: number;
    readonly blockSize: number;
    readonly blocks: number;
    readonly blocksFree: number;
  }
  export function statfs(path: string): StatFs;
  export function fchownat(dirfd: number, path: string, uid: number, gid: number, flags: number): void;
  export function fchmodat(dirfd: number, path: string, mode: number): void;
  export function fchmod(fd: number, mode: number): void;
  /** Names without "." and "..". */
  export function readdir(path: string): string[];
  export function umask(mask: number): number;
  export function chdir(path: string): void;
  export function fchdir(fd: number): void;
  export function chroot(path: string): void;

  // ---- native/sys_mount.c ----
  export function mount(
    source: string | undefined,
    target: string,
    type: string | undefined,
    flags: number,
    data: string | undefined,
  ): void;
  export function umount2(target: string, flags: number): void;
  export function openTree(dirfd: number, path: string, flags: number): number;
  export function moveMount(
    fromDirfd: number,
    from: string,
    toDirfd: number,
    to: string,
    flags: number,
  ): void;
  export function mountSetattr(
    dirfd: number,
    path: string,
    flags: number,
    set: number,
    clear: number,
    propagation: number,
  ): void;
  export function fsopen(type: string): number;
  export function fsconfig(
    fd: number,
    command: number,
    key: string | undefined,
    value: string | undefined,
    aux: number,
  ): void;
  export function fsmount(fd: number, attributes: number): number;
  export function finitModule(fd: number, parameters: string, flags: number): void;

  // ---- native/sys_socket.c ----
  export function socket(family: number, type: number, protocol: number): number;
  export function socketpair(family: number, type: number): [number, number];
  export function bind(fd: number, unixPath: string): void;
  export function bind(fd: number, cid: number, port: number): void;
  /** Joins the multicast groups of the bit mask (group n is bit n - 1). */
  export function bindNetlink(fd: number, groups: number): void;
  /** True when connected, false while it is under way (wait for writability, then ask socketError). */
  export function connect(fd: number, unixPath: string): boolean;
  export function connect(fd: number, cid: number, port: number): boolean;
  /** To the bytes of a struct sockaddr_*. */
  export function connect(fd: number, address: Bytes): boolean;
  export function listen(fd: number, backlog: number): void;
  /** The connection, -1 when none waits. */
  export function accept4(fd: number, flags: number): number;
  /** SO_ERROR: an errno, 0 for none. */
  export function socketError(fd: number): number;
  export function setsockopt(fd: number, level: number, option: number, value: number): void;
  export function shutdown(fd: number, how: number): void;
  export function vsockPort(fd: number): number;
  /** Sends the bytes with up to 8 descriptors (SCM_RIGHTS); bytes sent or -1 for EAGAIN. */
  export function sendFds(fd: number, bytes: Bytes, fds: readonly number[]): number;
  /** [bytes read or -1, ...descriptors]. */
  export function receiveFds(fd: number, into: Bytes): number[];

  // ---- native/sys_event.c ----
  export function epollCreate(): number;
  export function epollCtl(epfd: number, operation: number, fd: number, events: number, token: number): void;
  /** Fills `into` with (events, token) pairs; returns the number of pairs. `timeoutMs` -1 waits for ever. */
  export function epollWait(epfd: number, into: Uint32Array, timeoutMs: number): number;
  /** Blocks the signals and returns a non-blocking descriptor that reports them. */
  export function signalfd(signals: readonly number[]): number;
  /** The next signal's number, -1 for none. */
  export function readSignal(fd: number): number;
  /** For a child before exec: default handlers, nothing blocked. */
  export function resetSignals(): void;
  export function eventfd(flags: number): number;
  export function inotifyInit(): number;
  export function inotifyAddWatch(fd: number, path: string, mask: number): number;
  export function inotifyRmWatch(fd: number, watch: number): void;

  // ---- native/sys_process.c ----
  export function argv(): string[];
  export function getenv(name: string): string | undefined;
  /** 0 in the child. The child must end in execve or exit, and must not return to the event loop. */
  export function fork(): number;
  /** clone3 behaving as fork: CLONE_* bits (namespaces, CLONE_PARENT) and a cgroup to start in, or -1. */
  export function clone(flags: number, cgroupFd: number): number;
  /** Returns only by throwing. */
  export function execve(path: string, argv: readonly string[], env: readonly string[]): never;
  /** _exit(2). */
  export function exit(status: number): never;
  /** [pid, raw wait status]; pid 0: nothing changed (WNOHANG), -1: no such child. */
  export function waitpid(pid: number, options: number): [number, number];
  export function kill(pid: number, signal: number): void;
  export function pidfdOpen(pid: number): number;
  export function pidfdSendSignal(fd: number, signal: number): void;
  export function getpid(): number;
  export function setsid(): number;
  export function prctl(option: number, a: number, b: number, c: number, d: number): number;
  /** Marks all descriptors >= first close-on-exec. */
  export function cloexecFrom(first: number): void;

  // ---- native/sys_misc.c ----
  /** Microseconds of CLOCK_REALTIME 0, CLOCK_MONOTONIC 1, CLOCK_BOOTTIME 7. */
  export function clockUs(clock: number): number;
  export function realtimeNs(): bigint;
  export function setRealtimeNs(nanoseconds: bigint): void;
  export function sethostname(name: string): void;
  export function setdomainname(name: string): void;
  export function kernelRelease(): string;
  export function sync(): void;
  export function reboot(command: number): void;
  export function ioctl(fd: number, request: number, argument: number): number;
  export function ioctlBuffer(fd: number, request: number, buffer: Bytes): number;
  export function setWindowSize(fd: number, columns: number, rows: number): void;
  export function random(into: Bytes): number;
  export function encodeUtf8(text: string): ArrayBuffer;
  /** Malformed sequences become U+FFFD. */
  export function decodeUtf8(bytes: Bytes, offset?: number, length?: number): string;
  export function validUtf8(bytes: Bytes): boolean;
}
