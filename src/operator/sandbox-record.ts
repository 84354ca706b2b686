/** The sandboxes of this host, as their run directories tell of them. Works whether or not their shims live. */
import fs from "node:fs";
import { basename } from "node:path";
import { errnoOf, SandboxError } from "../base/errors.ts";
import { type JournalRecord, readJournal } from "../persist/journal.ts";
import { isSameProcess } from "../persist/proc.ts";
import { runRoot, type SandboxPaths, sandboxDirs, sandboxPaths } from "../persist/run-dir.ts";

export interface SandboxProcess {
  /** "shim", "qemu", "virtiofsd", "vhost-device-vsock". */
  readonly name: string;
  readonly pid: number;
}

export interface SandboxRecord {
  readonly id: string;
  readonly dir: string;
  readonly paths: SandboxPaths;
  /** containerd's namespace. */
  readonly namespace: string;
  /** What was written down when it was made: pod, kernel, size, ... */
  readonly facts: Readonly<Record<string, string | number | boolean>>;
  /** Those that still run. */
  readonly processes: readonly SandboxProcess[];
  /** The process that owns it lives. Without it the rest is an orphan. */
  readonly owned: boolean;
}

/** @throws SandboxError ERR_PERMISSION when the run directories cannot be read. */
export function findSandboxes(): SandboxRecord[] {
  assertReadable();
  return sandboxDirs().flatMap((dir) => {
    const record = readSandbox(dir);
    return record === undefined ? [] : [record];
  });
}

/** @throws SandboxError ERR_PERMISSION when the run directories cannot be read. */
export function assertReadable(): void {
  const root = runRoot();
  try {
    fs.readdirSync(root);
  } catch (cause) {
    if (errnoOf(cause) === "ENOENT") return;
    throw errnoOf(cause) === "EACCES" ? notRoot(root) : cause;
  }
}

const notRoot = (path: string): SandboxError =>
  new SandboxError("ERR_PERMISSION", `${path} cannot be read: run this as root (sudo shim ...)`);

/**
 * The sandbox in `dir`; undefined when there is no journal (it is being made or removed).
 * @throws SandboxError ERR_PERMISSION
 */
export function readSandbox(dir: string): SandboxRecord | undefined {
  const path = sandboxPaths(dir).journal;
  let journal: JournalRecord[];
  try {
    journal = readJournal(path);
  } catch (error) {
    throw errnoOf(error) === "EACCES" ? notRoot(path) : error;
  }
  return journal.length === 0 ? undefined : sandboxRecord(dir, journal);
}

/** What `journal`, that of `dir`, says; which of its processes run is looked up now. */
export function sandboxRecord(dir: string, journal: readonly JournalRecord[]): SandboxRecord {
  const paths = sandboxPaths(dir);
  const facts = Object.assign({}, ...journal.flatMap((one) => (one.kind === "facts" ? [one.facts] : [])));
  const processes = journal.flatMap((one) =>
    one.kind === "process" && isSameProcess(one.pid, one.startTime) ? [{ name: one.name, pid: one.pid }] : [],
  );
  const id = typeof facts.sandbox === "string" ? facts.sandbox : basename(dir).replace(/-[0-9a-f]{8}$/, "");
  return {
    id,
    dir,
    paths,
    namespace: typeof facts.namespace === "string" ? facts.namespace : "",
    facts,
    processes,
    owned: processes.some(({ name }) => name === "shim"),
  };
}

/** A fact as text; undefined when it was not written down. */
export function fact({ facts }: Pick<SandboxRecord, "facts">, name: string): string | undefined {
  const value = facts[name];
  return value === undefined || value === "" ? undefined : String(value);
}

/** A fact as a number. */
export function numberFact({ facts }: Pick<SandboxRecord, "facts">, name: string): number | undefined {
  const value = facts[name];
  return typeof value === "number" ? value : undefined;
}
