/**
 * The figures of all sandboxes of this host, gathered when somebody asks. Connections to the shims are kept. What does
 * not come in time is shown as it was last, and what comes late is shown the next time: a guest that is slow or hangs
 * holds up nobody.
 */
import { promises as fs } from "node:fs";
import { withDeadline } from "../../base/deadline.ts";
import type { StatsResponse, StatusResponse } from "../../gen/caisson/control/v1/control_pb.ts";
import { type ControlConnection, connectControl } from "../control-client.ts";
import { componentName, keyNumber, type ProcessUsage, processUsage } from "../processes.ts";
import { findSandboxes, type SandboxRecord } from "../sandbox-record.ts";

export interface SandboxSnapshot {
  readonly record: SandboxRecord;
  readonly status: StatusResponse | undefined;
  readonly stats: StatsResponse | undefined;
  /** The shim answered this time. */
  readonly up: boolean;
  /** The guest has answered since the last time. */
  readonly guestUp: boolean;
  /** By component. */
  readonly processes: ReadonlyMap<string, ProcessUsage>;
  /** Proportional set size in bytes by component, up to PSS_AGE_MS old. */
  readonly memory: ReadonlyMap<string, number>;
}

export interface Snapshot {
  readonly sandboxes: readonly SandboxSnapshot[];
  readonly seconds: number;
}

export interface CollectorInit {
  /** Milliseconds that a shim gets to answer. */
  readonly answerMs?: number;
  readonly find?: () => SandboxRecord[];
}

/** A scrape is to take less than 200 ms with 50 sandboxes. */
const ANSWER_MS = 120;
/** A walk over a machine's page tables takes milliseconds: not for each scrape. */
const PSS_AGE_MS = 15_000;

class Entry {
  control: Promise<ControlConnection> | undefined;
  status: StatusResponse | undefined;
  /** What the shim knows by itself. */
  own: StatsResponse | undefined;
  /** What the guest said last. */
  guest: Pick<StatsResponse, "guest" | "containers" | "guestError"> | undefined;
  guestAnsweredAt = Number.NEGATIVE_INFINITY;
  asking: Promise<void> | undefined;
  memory: ReadonlyMap<string, number> = new Map();
  memoryAt = Number.NEGATIVE_INFINITY;

  close(): void {
    this.control?.then(
      (connection) => connection[Symbol.dispose](),
      () => undefined,
    );
    this.control = undefined;
  }
}

export class Collector implements Disposable {
  readonly #answerMs: number;
  readonly #find: () => SandboxRecord[];
  readonly #entries = new Map<string, Entry>();
  #running: Promise<Snapshot> | undefined;
  /** When the collection before the present one began. */
  #previousAt = Number.NEGATIVE_INFINITY;

  constructor({ answerMs = ANSWER_MS, find = findSandboxes }: CollectorInit = {}) {
    this.#answerMs = answerMs;
    this.#find = find;
  }

  /** Figures as of now; callers at one time share them. @throws SandboxError ERR_PERMISSION */
  collect(): Promise<Snapshot> {
    this.#running ??= this.#collect().finally(() => {
      this.#running = undefined;
    });
    return this.#running;
  }

  [Symbol.dispose](): void {
    for (const entry of this.#entries.values()) entry.close();
    this.#entries.clear();
  }

  async #collect(): Promise<Snapshot> {
    const startedAt = performance.now();
    const records = this.#find();
    this.#forget(new Set(records.map(({ dir }) => dir)));
    const sandboxes = await Promise.all(records.map((record) => this.#snapshot(record)));
    this.#previousAt = startedAt;
    return { sandboxes, seconds: (performance.now() - startedAt) / 1000 };
  }

  #forget(present: ReadonlySet<string>): void {
    for (const [dir, entry] of this.#entries) {
      if (present.has(dir)) continue;
      entry.close();
      this.#entries.delete(dir);
    }
  }

  async #snapshot(record: SandboxRecord): Promise<SandboxSnapshot> {
    const entry = this.#entries.get(record.dir) ?? new Entry();
    this.#entries.set(record.dir, entry);
    const measured = refreshMemory(record, entry);
    const up = record.owned && (await this.#ask(record, entry));
    // The first measurement is worth waiting for.
    if (entry.memory.size === 0)
      await withDeadline(measured, this.#answerMs, "memory").catch(() => undefined);
    const processes = new Map<string, ProcessUsage>();
    for (const { name, pid } of record.processes) {
      const usage = processUsage(pid);
      if (usage !== undefined) processes.set(componentName(name), usage);
    }
    const { status, own, guest } = entry;
    // Those of an orphan go one by one.
    const memory = new Map([...entry.memory].filter(([component]) => processes.has(component)));
    const guestUp = up && guest?.guest !== undefined && entry.guestAnsweredAt > this.#previousAt;
    const stats = own === undefined ? undefined : { ...own, ...guest };
    return { record, status, stats, up, guestUp, processes, memory };
  }

  /** Whether the shim answered in time. */
  async #ask(record: SandboxRecord, entry: Entry): Promise<boolean> {
    let answered = false;
    const ask = async () => {
      entry.control ??= connectControl(record);
      const { calls } = await entry.control;
      entry.asking ??= askGuest(entry, calls);
      const [own, status] = await Promise.all([
        calls.stats({ shimOnly: true }),
        // What it says does not change once the guest is there.
        entry.status?.guest === undefined ? calls.status({}) : entry.status,
      ]);
      entry.own = own;
      entry.status = status;
      answered = true;
      await entry.asking;
    };
    // A shim that is only slow keeps its connection.
    await Promise.race([ask().catch(() => entry.close()), late(this.#answerMs)]);
    return answered;
  }
}

/**
 * Resolves after `ms` and a turn of the event loop: what has arrived by then counts, however busy we are ourselves with
 * the answers of the others.
 */
async function late(ms: number): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, ms).unref());
  for (let turn = 0; turn < 2; turn++) await new Promise((resolve) => setImmediate(resolve));
}

/** One question at a time: a guest that hangs is not asked more and more. Never rejects. */
async function askGuest(entry: Entry, calls: ControlConnection["calls"]): Promise<void> {
  try {
    const { guest, containers, guestError } = await calls.stats({});
    entry.guest = { containers, guestError, ...(guest && { guest }) };
    entry.guestAnsweredAt = performance.now();
  } catch {
    // The shim's own answer, or the lack of it, tells why.
  } finally {
    entry.asking = undefined;
  }
}

/** Measures when the last time is long ago. Never rejects. */
async function refreshMemory({ processes }: SandboxRecord, entry: Entry): Promise<void> {
  if (performance.now() - entry.memoryAt < PSS_AGE_MS) return;
  entry.memoryAt = performance.now();
  const memory = new Map<string, number>();
  for (const { name, pid } of processes) {
    const text = await fs.readFile(`/proc/${pid}/smaps_rollup`, "latin1").catch(() => "");
    if (text !== "") memory.set(componentName(name), keyNumber(text, "Pss") * 1024);
  }
  entry.memory = memory;
}
