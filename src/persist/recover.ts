/**
 * Undoes what a journal says exists. Used by `delete` and `gc` when the shim is gone, and by nothing else: a living
 * shim undoes through its own undo stack.
 */
import fs from "node:fs";
import path from "node:path";
import { describeError, errnoOf } from "../base/errors.ts";
import { failPoint } from "../base/failpoint.ts";
import type { Log } from "../base/log.ts";
import { removeCgroup } from "../base/remove-cgroup.ts";
import { mountsBelow, removeTree } from "../base/remove-tree.ts";
import { type JournalRecord, readJournal } from "./journal.ts";
import { type FoundProcess, findProcesses, isSameProcess } from "./proc.ts";
import { sandboxPaths } from "./run-dir.ts";

export interface RecoverDeps {
  readonly log: Log;
  /** Detaches a mount; ignores one that is not there. */
  readonly unmount: (path: string) => Promise<void>;
  /** Undoes a network plan (src/resources/net). */
  readonly undoNet: (plan: unknown) => Promise<void>;
  /** Resolves when the process has ended or after `limitMs`. */
  readonly waitForExit: (pid: number, startTime: string, limitMs: number) => Promise<void>;
}

/** Milliseconds that killed processes get to disappear; containerd gives `delete` 5 s in all. */
const EXIT_LIMIT_MS = 2_000;

/** What is left, in sentences, and whether the sandbox is still in use: by processes that the kernel does not let end now. */
interface Remains {
  readonly failures: string[];
  readonly inUse: boolean;
}

/**
 * Removes everything that the journal in `dir` names, then `dir` itself. May be repeated, also after it was killed. Where a
 * process does not end, `dir` and its journal stay for the next time: nothing else would know what it holds.
 * @returns sentences about what could not be undone; empty when all is clean.
 */
export async function removeSandbox(dir: string, deps: RecoverDeps): Promise<string[]> {
  if (!fs.existsSync(dir)) return [];
  failPoint("recover.begin");
  const failures: string[] = [];
  const attempt = async (what: string, run: () => Promise<void> | void) => {
    try {
      await run();
    } catch (error) {
      failures.push(`${what}: ${describeError(error)}`);
    }
  };
  let records: JournalRecord[] = [];
  await attempt("journal", () => {
    records = readJournal(sandboxPaths(dir).journal);
  });
  const remains = await undoRecords(dir, records, deps);
  failures.push(...remains.failures);
  failPoint("recover.undone");
  if (!remains.inUse) await attempt("run directory", () => removeTree(dir));
  for (const failure of failures) deps.log.error({ path: dir }, `left behind: ${failure}`);
  return failures;
}

/** Unmounts what the kernel says is mounted in the sandbox's directory, recorded or not. */
async function unmountBelow(dir: string, deps: RecoverDeps): Promise<void> {
  for (const point of mountsBelow(dir).reverse()) await deps.unmount(point);
}

async function undoRecords(
  dir: string,
  records: readonly JournalRecord[],
  deps: RecoverDeps,
): Promise<Remains> {
  const processes = await killProcesses(records, deps);
  failPoint("recover.killed");
  const cgroups = await removeCgroups(records);
  const failures = [...processes.failures, ...cgroups.failures];
  await unmountBelow(dir, deps).catch((error: unknown) => failures.push(`mounts: ${describeError(error)}`));
  for (const record of [...records].reverse()) {
    try {
      await undoRecord(record, deps);
    } catch (error) {
      failures.push(`${record.kind}: ${describeError(error)}`);
    }
  }
  return { failures, inUse: processes.inUse || cgroups.inUse };
}

async function killProcesses(records: readonly JournalRecord[], deps: RecoverDeps): Promise<Remains> {
  const alive = processesOf(records).filter((it) => isSameProcess(it.pid, it.startTime));
  const failures: string[] = [];
  for (const { name, pid } of alive) {
    deps.log.info({ pid, step: name }, "killing a process left by a dead shim");
    try {
      process.kill(pid, "SIGKILL");
    } catch (error) {
      if (errnoOf(error) !== "ESRCH") failures.push(`process ${pid} (${name}): ${describeError(error)}`);
    }
  }
  await Promise.allSettled(alive.map((it) => deps.waitForExit(it.pid, it.startTime, EXIT_LIMIT_MS)));
  const running = alive.filter((it) => isSameProcess(it.pid, it.startTime));
  failures.push(...running.map((it) => `process ${it.pid} (${it.name}) does not end`));
  return { failures, inUse: running.length > 0 };
}

/** The processes that `records` name, whether they still run or not; those of a `spawn` are looked for. */
export function processesOf(records: readonly JournalRecord[]): (FoundProcess & { name: string })[] {
  return records.flatMap((record) => {
    if (record.kind === "process") return record.pid === process.pid ? [] : [record];
    if (record.kind !== "spawn") return [];
    const marker = `${record.marker}/`;
    const started = findProcesses(
      (words) => words.includes(record.file) && words.some((word) => word.includes(marker)),
    );
    return started.map((found) => ({ ...found, name: record.name }));
  });
}

async function undoRecord(record: JournalRecord, deps: RecoverDeps): Promise<void> {
  switch (record.kind) {
    case "spawn":
    case "process":
    case "facts":
    case "cgroup":
    case "mount":
      return;
    case "net":
      return deps.undoNet(record.plan);
  }
}

/** A damaged journal must not make us remove what is not the sandbox's. @throws when `file` is not below `dir`. */
function inside(dir: string, file: string): string {
  if (file !== dir && !file.startsWith(`${dir}${path.sep}`)) throw new Error(`${file} is not below ${dir}`);
  return file;
}

/** Milliseconds for what the shim started besides (logging binaries) to end by itself, then for it to be gone. */
const CGROUP_GRACE_MS = 300;
const CGROUP_LIMIT_MS = 1_000;

/** All at the same time: in each hierarchy they hold the same processes. */
async function removeCgroups(records: readonly JournalRecord[]): Promise<Remains> {
  const paths = records.flatMap((record) => (record.kind === "cgroup" ? [record.path] : []));
  const removals = paths.map(async (path) =>
    removeCgroup(inside("/sys/fs/cgroup", path), CGROUP_GRACE_MS, CGROUP_LIMIT_MS),
  );
  const results = await Promise.allSettled(removals);
  const reasons: unknown[] = results.flatMap((result) =>
    result.status === "rejected" ? [result.reason] : [],
  );
  return {
    failures: reasons.map((reason) => `cgroup: ${describeError(reason)}`),
    inUse: reasons.some((reason) => errnoOf(reason) === "EBUSY"),
  };
}
