/**
 * The figures of all sandboxes of this host, gathered when somebody asks. Connections to the shims are kept; one that
 * does not answer in time is shown with its last figures, so that a guest that hangs cannot hold up the others.
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
  /** The guest answered this time. */
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

interface Entry {
  control: Promise<ControlConnection> | undefined;
  status: StatusResponse | undefined;
  stats: StatsResponse | undefined;
  memory: ReadonlyMap<string, number>;
  memoryAt: number;
}

export class Collector implements Disposable {
  readonly #answerMs: number;
  readonly #find: () => SandboxRecord[];
  readonly #entries = new Map<string, Entry>();
  #running: Promise<Snapshot> | undefined;

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
    for (const entry of this.#entries.values()) closeQuietly(entry);
    this.#entries.clear();
  }

  async #collect(): Promise<Snapshot> {
    const startedAt = performance.now();
    const records = this.#find();
    this.#forget(new Set(records.map(({ dir }) => dir)));
    const sandboxes = await Promise.all(records.map((record) => this.#snapshot(record)));
    return { sandboxes, seconds: (performance.now() - startedAt) / 1000 };
  }

  #forget(present: ReadonlySet<string>): void {
    for (const [dir, entry] of this.#entries) {
      if (present.has(dir)) continue;
      closeQuietly(entry);
      this.#entries.delete(dir);
    }
  }

  async #snapshot(record: SandboxRecord): Promise<SandboxSnapshot> {
    let entry = this.#entries.get(record.dir);
    if (entry === undefined) {
      entry = { control: undefined, status: undefined, stats: undefined, memory: new Map(), memoryAt: 0 };
      this.#entries.set(record.dir, entry);
    }
    const up = record.owned && (await this.#ask(record, entry));
    const processes = new Map<string, ProcessUsage>();
    for (const { name, pid } of record.processes) {
      const usage = processUsage(pid);
      if (usage !== undefined) processes.set(componentName(name), usage);
    }
    refreshMemory(record, entry);
    const { status, stats, memory } = entry;
    return { record, status, stats, up, guestUp: up && stats?.guest !== undefined, processes, memory };
  }

  /** Whether the shim answered. */
  async #ask(record: SandboxRecord, entry: Entry): Promise<boolean> {
    try {
      entry.control ??= connectControl(record);
      const ask = async () => {
        const { calls } = await (entry.control as Promise<ControlConnection>); // set above
        const [stats, status] = await Promise.all([
          calls.stats({}),
          // What it says does not change once the guest is there.
          entry.status?.guest === undefined ? calls.status({}) : entry.status,
        ]);
        return { stats, status };
      };
      const { stats, status } = await withDeadline(ask(), this.#answerMs, "the shim's answer");
      entry.stats = stats;
      entry.status = status;
      return true;
    } catch (error) {
      // A shim that is only slow keeps its connection; what comes too late is dropped.
      if ((error as { code?: unknown }).code !== "ERR_DEADLINE") {
        closeQuietly(entry);
        entry.control = undefined;
      }
      return false;
    }
  }
}

function closeQuietly({ control }: Entry): void {
  control?.then(
    (connection) => connection[Symbol.dispose](),
    () => undefined,
  );
}

/** Starts a new measurement when the last one is old; nobody waits for it. */
function refreshMemory({ processes }: SandboxRecord, entry: Entry): void {
  if (Date.now() - entry.memoryAt < PSS_AGE_MS) return;
  entry.memoryAt = Date.now();
  const measure = async () => {
    const memory = new Map<string, number>();
    for (const { name, pid } of processes) {
      const text = await fs.readFile(`/proc/${pid}/smaps_rollup`, "latin1").catch(() => "");
      if (text !== "") memory.set(componentName(name), keyNumber(text, "Pss") * 1024);
    }
    entry.memory = memory;
  };
  void measure();
}
