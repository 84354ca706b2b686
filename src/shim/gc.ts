/**
 * `gc`: removes what dead shims left on this host, and nothing else. A sandbox whose shim lives is not looked at.
 *
 * What it finds: directories below the run root whose journal names a shim that is gone, with every process, mount and
 * network change in that journal; directories that their maker did not live to finish; sockets of ours that nobody
 * listens at.
 */
import fs from "node:fs";
import { describeError } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { mountsBelow, removeTree } from "../base/remove-tree.ts";
import { type JournalRecord, readJournal } from "../persist/journal.ts";
import { isSameProcess } from "../persist/proc.ts";
import { processesOf, type RecoverDeps, removeSandbox } from "../persist/recover.ts";
import { abandonedDirs, sandboxDirs, sandboxPaths, shimSockets } from "../persist/run-dir.ts";
import { isDeaf } from "./dead-socket.ts";
import { recoverDeps, shimAlive } from "./delete.ts";

export interface GarbageOptions {
  /** Only say what would go. */
  readonly dryRun: boolean;
  readonly log: Log;
}

/** One thing that a dead shim left. */
export interface Garbage {
  readonly kind: "sandbox" | "unfinished directory" | "socket";
  readonly path: string;
  /** The sandbox's id and namespace, where its journal could be read. */
  readonly sandbox: string | undefined;
  readonly namespace: string | undefined;
  /** Its shim's socket, where its journal could be read. */
  readonly socket: string | undefined;
  /** What exists because of it, for people: "process 123 (qemu)", "mount /run/…", "network of /run/netns/x". */
  readonly holds: readonly string[];
  /** Why it is still there, in sentences; empty when it is gone, and in a dry run. */
  readonly failures: readonly string[];
}

export interface GarbageReport {
  readonly garbage: readonly Garbage[];
  /** Sandboxes whose shim lives. */
  readonly living: number;
}

/**
 * Removes the garbage of this host, or with `dryRun` only finds it. Several may run at once.
 * @throws ERR_HOST when a directory cannot be read; what cannot be removed is in the report instead.
 */
export async function collectGarbage(options: GarbageOptions): Promise<GarbageReport> {
  const deps = recoverDeps(options.log);
  const garbage: Garbage[] = [];
  let living = 0;
  for (const dir of sandboxDirs()) {
    const found = inspect(dir);
    if (found === "living") living += 1;
    else garbage.push({ ...found, failures: options.dryRun ? [] : await removeOrphan(dir, deps) });
  }
  for (const path of abandonedDirs()) {
    garbage.push(plain("unfinished directory", path, options.dryRun ? [] : attempt(() => removeTree(path))));
  }
  for (const path of new Set([...shimSockets(), ...garbage.flatMap((it) => it.socket ?? [])])) {
    if (await isDeaf(path)) {
      garbage.push(
        plain("socket", path, options.dryRun ? [] : attempt(() => fs.rmSync(path, { force: true }))),
      );
    }
  }
  return { garbage, living };
}

type Found = Omit<Garbage, "failures">;

function inspect(dir: string): Found | "living" {
  let records: readonly JournalRecord[] = [];
  try {
    if (shimAlive(dir)) return "living";
    records = readJournal(sandboxPaths(dir).journal);
  } catch {
    // A directory without a readable journal: every living sandbox has one.
  }
  const facts = records.find((record) => record.kind === "facts")?.facts;
  return {
    kind: "sandbox",
    path: dir,
    sandbox: textOf(facts?.sandbox),
    namespace: textOf(facts?.namespace),
    socket: socketOf(facts?.socket),
    holds: [...heldBy(records), ...mountsBelow(dir).map((point) => `mount ${point}`)],
  };
}

/** A damaged journal must not make us remove another file. */
const socketOf = (value: unknown): string | undefined =>
  typeof value === "string" && /^\/.*\/caisson-[0-9a-f]{64}$/.test(value) ? value : undefined;
const textOf = (value: unknown): string | undefined => (typeof value === "string" ? value : undefined);

function heldBy(records: readonly JournalRecord[]): string[] {
  const processes = processesOf(records)
    .filter((it) => isSameProcess(it.pid, it.startTime))
    .map((it) => `process ${it.pid} (${it.name})`);
  const rest = records.flatMap((record) => {
    if (record.kind === "net") return [`network of ${netnsOf(record.plan)}`];
    return record.kind === "cgroup" ? [`cgroup ${record.path}`] : [];
  });
  return [...processes, ...rest];
}

/** The namespace's path in a network record (src/resources/net, NetUndoRecord). */
function netnsOf(plan: unknown): string {
  const netns = (plan as { netns?: { path?: unknown } } | null)?.netns;
  return textOf(netns?.path) ?? "an unknown namespace";
}

async function removeOrphan(dir: string, deps: RecoverDeps): Promise<string[]> {
  try {
    // Looked at again right before: its id may just have been taken anew.
    return fs.existsSync(sandboxPaths(dir).journal) && shimAlive(dir) ? [] : await removeSandbox(dir, deps);
  } catch (error) {
    return [describeError(error)];
  }
}

const plain = (kind: Garbage["kind"], path: string, failures: readonly string[]): Garbage => ({
  kind,
  path,
  sandbox: undefined,
  namespace: undefined,
  socket: undefined,
  holds: [],
  failures,
});

function attempt(run: () => void): string[] {
  try {
    run();
    return [];
  } catch (error) {
    return [describeError(error)];
  }
}
