/** Where a sandbox keeps its state: `/run/caisson/<sandbox>/`, 0700, with short names because sun_path is 108 bytes. */
import { createHash } from "node:crypto";
import fs from "node:fs";
import path from "node:path";
import { errnoOf, SandboxError } from "../base/errors.ts";
import { isSameProcess, processStartTime } from "./proc.ts";

/** Root of all run state; `CAISSON_RUN_ROOT` moves it (tests). */
export function runRoot(): string {
  return process.env.CAISSON_RUN_ROOT ?? "/run/caisson";
}

/** The directory in which containerd's shims have their sockets by convention (containerd pkg/shim, SocketAddress). */
export const SOCKET_DIR = "/run/containerd/s";
/** Tells our sockets from those of other shims, whose names are hashes too. */
const SOCKET_PREFIX = "caisson-";

export interface SandboxIdentity {
  readonly namespace: string;
  readonly sandboxId: string;
  /** containerd's address: two daemons may use the same namespace and id. */
  readonly containerdAddress: string;
}

/** 64 hex digits that name this sandbox on this host. */
export function identityHash(identity: SandboxIdentity): string {
  return createHash("sha256")
    .update(`${identity.containerdAddress}\0${identity.namespace}\0${identity.sandboxId}`)
    .digest("hex");
}

/** Longest part of an id that is kept in the directory's name: leaves room for socket names below it. */
const MAX_ID_LENGTH = 48;

/** The sandbox's directory: its id (cut when very long) and 8 digits that tell equal ids of several daemons apart. */
export function sandboxDir(identity: SandboxIdentity): string {
  const name = `${identity.sandboxId.slice(0, MAX_ID_LENGTH)}-${identityHash(identity).slice(0, 8)}`;
  return path.join(runRoot(), name);
}

/** The shim's ttrpc socket for this sandbox. @param dir another directory than the usual one; empty for the usual. */
export function shimSocketPath(identity: SandboxIdentity, dir = ""): string {
  return path.join(dir === "" ? SOCKET_DIR : dir, `${SOCKET_PREFIX}${identityHash(identity)}`);
}

/** The sockets of our shims on this host, living and dead ones. */
export function shimSockets(): string[] {
  const entries = readdirQuietly(SOCKET_DIR).filter((name) => /^caisson-[0-9a-f]{64}$/.test(name));
  return entries.map((name) => path.join(SOCKET_DIR, name));
}

/** The directories of all sandboxes of this host, living and dead ones. */
export function sandboxDirs(): string[] {
  const entries = readdirQuietly(runRoot()).filter((name) => !name.startsWith("."));
  return entries.map((name) => path.join(runRoot(), name));
}

/** The files of a sandbox's directory. */
export function sandboxPaths(dir: string) {
  return {
    dir,
    journal: path.join(dir, "journal"),
    shared: path.join(dir, "shared"),
    sharedView: path.join(dir, "view"),
    virtiofsSocket: path.join(dir, "fs.sock"),
    rootsVirtiofsSocket: path.join(dir, "roots.sock"),
    qmpSocket: path.join(dir, "qmp.sock"),
    /** The operator's tools: caisson.control.v1 over ttrpc; frames of the debug console. */
    controlSocket: path.join(dir, "shim.sock"),
    consoleSocket: path.join(dir, "console.sock"),
    /** One JSON object a line, as are those of the guest's console. */
    shimLog: path.join(dir, "shim.log"),
    consoleLog: path.join(dir, "console.log"),
  } as const;
}
export type SandboxPaths = ReturnType<typeof sandboxPaths>;

/** A directory that is being made has this name, with the pid and the start time of its maker. */
const NEW_DIR = /^\.new-(\d+)-(\d+)-/;

/**
 * Makes `dir` (0700) with what `fill` puts into it, all at once: whoever sees the directory sees its journal too.
 * @returns what `fill` returned. @throws ERR_ALREADY_EXISTS when `dir` exists, ERR_HOST naming the path.
 */
export function makeSandboxDir<T>(dir: string, fill: (making: string) => T): T {
  const own = `.new-${process.pid}-${processStartTime(process.pid) ?? "0"}-${path.basename(dir)}`;
  const making = path.join(path.dirname(dir), own);
  try {
    fs.mkdirSync(path.dirname(dir), { recursive: true, mode: 0o700 });
    fs.mkdirSync(making, { mode: 0o700 });
  } catch (error) {
    throw new SandboxError("ERR_HOST", `cannot create the run directory ${dir}`, { cause: error });
  }
  try {
    const filled = fill(making);
    fs.renameSync(making, dir);
    return filled;
  } catch (error) {
    fs.rmSync(making, { recursive: true, force: true });
    const exists = ["ENOTEMPTY", "EEXIST", "ENOTDIR"].includes(errnoOf(error) ?? "");
    if (error instanceof SandboxError) throw error;
    throw new SandboxError(
      exists ? "ERR_ALREADY_EXISTS" : "ERR_HOST",
      exists ? `${dir} exists already: a sandbox of this id runs` : `cannot create the run directory ${dir}`,
      { cause: error },
    );
  }
}

/** Directories that their maker did not live to finish. Nothing is mounted in them. */
export function abandonedDirs(): string[] {
  return readdirQuietly(runRoot()).flatMap((name) => {
    const [, pid, startTime] = NEW_DIR.exec(name) ?? [];
    if (pid === undefined || startTime === undefined || isSameProcess(Number(pid), startTime)) return [];
    return [path.join(runRoot(), name)];
  });
}

function readdirQuietly(dir: string): string[] {
  try {
    return fs.readdirSync(dir);
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return [];
    throw new SandboxError("ERR_HOST", `cannot read ${dir}`, { cause: error });
  }
}
