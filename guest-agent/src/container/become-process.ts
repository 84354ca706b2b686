/**
 * The last steps of a child, the same for a container's first process and for an exec: stdio, limits, user,
 * capabilities, seccomp, execve. Preconditions: inside the container's namespaces and root, as root.
 */
import * as sys from "sys";
import {
  AT_EMPTY_PATH,
  AT_FDCWD,
  AT_SYMLINK_NOFOLLOW,
  O_NONBLOCK,
  O_RDONLY,
  O_RDWR,
  O_WRONLY,
  S_IFCHR,
  S_IFMT,
  S_IFREG,
  sysCode,
} from "../linux.ts";
import { applyCapabilities, raisePermitted } from "./capabilities.ts";
import { type CapabilitySets, capabilitySets } from "./capability-sets.ts";
import {
  environmentValue,
  findExecutable,
  homeDirectory,
  type ModeOf,
  reasonText,
  startFailure,
} from "./executable.ts";
import { PR_SET_KEEPCAPS, PR_SET_NO_NEW_PRIVS } from "./kernel.ts";
import { applyIoPriority, applyPersonality, applyRlimits, applyScheduler } from "./limits.ts";
import type { LinuxSpec, ProcessSpec } from "./oci-spec.ts";
import { installSeccomp, type SeccompProgram } from "./seccomp.ts";
import { controlTerminal } from "./terminal.ts";

/** The process's ends; undefined is /dev/null. All above 2. */
export interface ChildStdio {
  readonly stdin: number | undefined;
  readonly stdout: number | undefined;
  readonly stderr: number | undefined;
}

/** A user's home directory by a container's /etc/passwd. */
export interface Home {
  /** Which state of the file says so; another one after each change of it. */
  readonly passwd: string;
  readonly directory: string;
}

export interface ProcessPlan {
  readonly process: ProcessSpec;
  readonly personality: LinuxSpec["personality"];
  readonly seccomp: SeccompProgram | undefined;
  /** A program that stands in for commands that PATH does not have (the debug console's busybox). */
  readonly tools?: number | undefined;
  /** What an earlier process of this user has found. */
  readonly home?: Home | undefined;
  /** Told when that does not hold. */
  readonly foundHome?: (home: Home) => void;
}

const DEFAULT_UMASK = 0o022;
/** runc's limit, and its words below. The kernel takes 2^32-1 for "as it is": such a process would stay root. */
const MAX_ID = 2_147_483_647;
const PASSWD = "/etc/passwd";
/** Bytes of /etc/passwd that are looked at for a home directory. */
const PASSWD_LIMIT = 1 << 20;
/** devices.txt: /dev/null. */
const NULL_MAJOR = 1;
const NULL_MINOR = 3;

/** Returns only by throwing: ERR_START_PROCESS with the reason. */
export function becomeProcess(plan: ProcessPlan, stdio: ChildStdio | { readonly terminal: number }): never {
  const { process } = plan;
  placeStdio(stdio);
  sys.setsid();
  if ("terminal" in stdio) controlTerminal();
  giveStdioTo(process.user.uid);
  applyRlimits(process.rlimits);
  applyIoPriority(process.ioPriority);
  applyScheduler(process.scheduler);
  applyPersonality(plan.personality);
  const entered = tryChdir(process.cwd);
  const home = rootHome(plan);
  changeIdentity(plan, capabilitySets(process.capabilities));
  // A directory that only the user may enter (root squashed by its server, for example).
  const reason = entered === undefined ? undefined : tryChdir(process.cwd);
  if (reason !== undefined) {
    throw startFailure(`chdir to cwd ("${process.cwd}") set in config.json failed: ${reasonText(reason)}`);
  }
  execute(plan, home);
}

function placeStdio(stdio: ChildStdio | { readonly terminal: number }): void {
  const wanted =
    "terminal" in stdio
      ? [stdio.terminal, stdio.terminal, stdio.terminal]
      : [stdio.stdin, stdio.stdout, stdio.stderr];
  const nothing = wanted.includes(undefined) ? openNull() : undefined;
  wanted.forEach((fd, number) => {
    // One of the two is there: `nothing` was opened when any is undefined.
    const source = fd ?? nothing;
    if (source !== undefined) sys.dup3(source, number, 0);
  });
}

/** The container's /dev/null, above 2; something else under that name would be a trap. */
function openNull(): number {
  const fd = sys.openat(AT_FDCWD, "/dev/null", O_RDWR, 0);
  const { mode, rdevMajor, rdevMinor } = sys.fstatat(fd, "", AT_EMPTY_PATH);
  if ((mode & S_IFMT) !== S_IFCHR || rdevMajor !== NULL_MAJOR || rdevMinor !== NULL_MINOR) {
    throw startFailure("/dev/null of the container is not the null device");
  }
  return fd;
}

/** So that a process without privileges can open /dev/stdout again. Files that are not ours to give are left. */
function giveStdioTo(uid: number): void {
  for (const fd of [0, 1, 2]) {
    const info = sys.fstatat(fd, "", AT_EMPTY_PATH);
    if (info.uid === uid || (info.rdevMajor === NULL_MAJOR && info.rdevMinor === NULL_MINOR)) continue;
    try {
      sys.fchownat(fd, "", uid, info.gid, AT_EMPTY_PATH);
    } catch (error) {
      const code = sysCode(error);
      if (code !== "EPERM" && code !== "EINVAL" && code !== "EROFS") throw error;
    }
  }
}

/** The errno name when it failed. */
function tryChdir(path: string): string | undefined {
  try {
    sys.chdir(path === "" ? "/" : path);
    return undefined;
  } catch (error) {
    return sysCode(error) ?? "EIO";
  }
}

/**
 * User, capabilities, no_new_privs and seccomp. Without no_new_privs a filter needs CAP_SYS_ADMIN to install, so it is
 * installed before the capabilities go; with it, last of all, so that it need not allow the calls in between.
 */
function changeIdentity({ process, seccomp }: ProcessPlan, sets: CapabilitySets): void {
  const { uid, gid, additionalGids, umask } = process.user;
  sys.limitBoundingSet(BigInt.asIntN(64, sets.bounding));
  sys.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0);
  try {
    if ([uid, gid, ...additionalGids].some((id) => id > MAX_ID)) {
      throw new Error(`uids and gids must be in range 0-${MAX_ID}`);
    }
    sys.setUser(uid, gid, additionalGids);
  } catch (error) {
    throw startFailure(`cannot become user ${uid}, group ${gid}`, error);
  }
  sys.prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0);
  sys.umask(umask ?? DEFAULT_UMASK);
  if (seccomp !== undefined && !process.noNewPrivileges) {
    raisePermitted();
    installSeccomp(seccomp);
  }
  applyCapabilities(sets);
  if (process.noNewPrivileges) sys.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  if (seccomp !== undefined && process.noNewPrivileges) installSeccomp(seccomp);
}

function execute({ process, tools }: ProcessPlan, home: string | undefined): never {
  const { args, env, user } = process;
  const [command] = args;
  if (command === undefined) throw startFailure("process.args is empty: there is nothing to execute");
  const environment =
    environmentValue(env, "HOME") === undefined ? [...env, `HOME=${home ?? findHome(user.uid)}`] : env;
  const search = () => findExecutable(command, environmentValue(env, "PATH"), statMode);
  if (tools !== undefined && !command.includes("/") && !isFound(search)) {
    sys.resetSignals();
    sys.execveat(tools, "", args, environment, AT_EMPTY_PATH);
  }
  const path = search();
  sys.resetSignals();
  try {
    return sys.execve(path, args, environment);
  } catch (error) {
    throw startFailure(`exec ${path}: ${reasonText(sysCode(error) ?? String(error))}`);
  }
}

function isFound(search: () => string): boolean {
  try {
    search();
    return true;
  } catch {
    return false;
  }
}

const statMode: ModeOf = (path) => {
  try {
    return sys.fstatat(AT_FDCWD, path, 0).mode;
  } catch (error) {
    return sysCode(error) ?? "EIO";
  }
};

function findHome(uid: number): string {
  try {
    return homeDirectory(sys.decodeUtf8(sys.readFile(PASSWD, PASSWD_LIMIT)), uid) ?? "/";
  } catch {
    return "/";
  }
}

/**
 * The home directory by a plain file of the root file system, as an earlier process has found it where that still holds:
 * to open and close a file are two requests to virtiofsd, to look at what the guest knows of it is none. Runs as root: a
 * link, or another file system's file, is not opened here.
 */
function rootHome({ process, home, foundHome }: ProcessPlan): string | undefined {
  if (environmentValue(process.env, "HOME") !== undefined) return undefined;
  try {
    const passwd = plainFile(sys.fstatat(AT_FDCWD, PASSWD, AT_SYMLINK_NOFOLLOW));
    if (passwd === undefined) return undefined;
    if (home?.passwd === passwd) return home.directory;
    const text = readPlainFile(PASSWD, passwd);
    if (text === undefined) return undefined;
    const directory = homeDirectory(text, process.user.uid) ?? "/";
    foundHome?.({ passwd, directory });
    return directory;
  } catch {
    return undefined;
  }
}

/** Another text after each change of the file; undefined unless it is a plain file of the root file system. */
function plainFile({ mode, dev, ino, size, ctimeNs }: sys.Stat): string | undefined {
  if ((mode & S_IFMT) !== S_IFREG || size > PASSWD_LIMIT) return undefined;
  return dev === sys.fstatat(AT_FDCWD, "/", 0).dev ? `${dev} ${ino} ${size} ${ctimeNs}` : undefined;
}

/** Undefined when there is another file by now than `plainFile` has said. */
function readPlainFile(path: string, expected: string): string | undefined {
  const fd = sys.openat(AT_FDCWD, path, O_RDONLY | sys.O_NOFOLLOW | O_NONBLOCK, 0);
  try {
    const info = sys.fstatat(fd, "", AT_EMPTY_PATH);
    if (plainFile(info) !== expected) return undefined;
    const content = new Uint8Array(info.size);
    return sys.read(fd, content) === info.size ? sys.decodeUtf8(content) : undefined;
  } finally {
    sys.close(fd);
  }
}

/** Sets the OOM score of the calling process; needs the agent's /proc, so before the root is entered. */
export function setOomScore(adjustment: number): void {
  try {
    sys.writeFile("/proc/self/oom_score_adj", String(adjustment), O_WRONLY, 0);
  } catch (error) {
    throw startFailure(`cannot set oom_score_adj to ${adjustment}`, error);
  }
}

/** Opens a path of the container from inside of it. */
export function openHere(path: string, flags: number = O_RDONLY): number {
  return sys.openat(AT_FDCWD, path, flags, 0);
}
