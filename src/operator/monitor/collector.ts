/**
 * The figures of all sandboxes of this host. Who asks for them, as Prometheus does, asks again after a while: ahead of
 * that each sandbox is looked at once, one after the other, over a connection that is kept. So who asks gets what the
 * looks have just seen, and how old it is, and a shim or a guest that is slow or hangs holds up nobody. When nobody asks
 * any more the looking stops.
 */
import { promises as fs } from "node:fs";
import { withDeadline } from "../../base/deadline.ts";
import { SandboxError } from "../../base/errors.ts";
import type { StatsResponse, StatusResponse } from "../../gen/caisson/control/v1/control_pb.ts";
import { type ControlConnection, connectControl } from "../control-client.ts";
import {
  componentName,
  type ProcessUsage,
  proportionalBytes,
  usageByComponent,
  withDescendants,
} from "../processes.ts";
import { type SandboxRecord, sandboxRecord } from "../sandbox-record.ts";
import type { FoundSandbox } from "./watch.ts";

export interface SandboxSnapshot {
  readonly record: SandboxRecord;
  readonly status: StatusResponse | undefined;
  readonly stats: StatsResponse | undefined;
  /** False for a sandbox that is looked at for the first time just now. */
  readonly seen: boolean;
  /** The shim answered when it was last asked. */
  readonly up: boolean;
  /** So did the guest. */
  readonly guestUp: boolean;
  /** performance.now() when the shim was asked for what `stats` says; undefined when it never answered. */
  readonly askedAtMs: number | undefined;
  /** The same of the guest's part. */
  readonly guestAskedAtMs: number | undefined;
  /** By component. */
  readonly processes: ReadonlyMap<string, ProcessUsage>;
  /** Proportional set size in bytes by component, up to PSS_AGE_MS and a period old. */
  readonly memory: ReadonlyMap<string, number>;
}

export interface Snapshot {
  readonly sandboxes: readonly SandboxSnapshot[];
  /** How long who asked had to wait. */
  readonly seconds: number;
}

export interface CollectorInit {
  /** The sandboxes there are now. @throws SandboxError ERR_PERMISSION */
  readonly find: () => readonly FoundSandbox[];
  /** Takes each new snapshot as it is made. */
  readonly onLook?: (snapshot: SandboxSnapshot) => void;
  readonly tuning?: Partial<CollectorTuning>;
}

export interface CollectorTuning {
  /** Milliseconds before the next question in which all sandboxes are looked at: how old figures become. */
  readonly aheadMs: number;
  /** Milliseconds that who asks unexpectedly waits for new figures, where they are twice as old as they should be. */
  readonly waitMs: number;
  /** Milliseconds for a shim's answer, which gives its guest two seconds. */
  readonly answerMs: number;
}

const defaultTuning: CollectorTuning = { aheadMs: 5_000, waitMs: 120, answerMs: 3_000 };
/** Of the time ahead of a question, the part that looks are spread over: who asks a little early finds them done. */
const SPREAD = 0.8;
/** The time to the next question is the least of so many before: several may ask, each in its own rhythm. */
const REMEMBERED = 4;
/** Intervals without a question after which nobody is expected any more. */
const PATIENCE = 2.5;
/** A walk over a machine's page tables takes milliseconds: not for each look. */
const PSS_AGE_MS = 30_000;

class Entry {
  found: FoundSandbox;
  shimPid: number | undefined;
  control: Promise<ControlConnection> | undefined;
  lookedAtMs = Number.NEGATIVE_INFINITY;
  looking: Promise<void> | undefined;
  asking: Promise<boolean> | undefined;
  status: StatusResponse | undefined;
  stats: StatsResponse | undefined;
  askedAtMs: number | undefined;
  guestAskedAtMs: number | undefined;
  memory: ReadonlyMap<string, number> = new Map();
  memoryAtMs = Number.NEGATIVE_INFINITY;
  snapshot: SandboxSnapshot | undefined;

  constructor(found: FoundSandbox) {
    this.found = found;
  }

  close(): void {
    this.control?.then(
      (connection) => connection[Symbol.dispose](),
      () => undefined,
    );
    this.control = undefined;
  }
}

export class Collector implements Disposable {
  readonly #init: CollectorInit;
  readonly #tuning: CollectorTuning;
  readonly #entries = new Map<string, Entry>();
  readonly #askedAtMs: number[] = [];
  #timer: ReturnType<typeof setTimeout> | undefined;
  #timerAtMs = 0;
  /** When the next question is expected. */
  #expectedAtMs = Number.NEGATIVE_INFINITY;

  constructor(init: CollectorInit) {
    this.#init = init;
    this.#tuning = { ...defaultTuning, ...init.tuning };
  }

  /** What the last looks have seen. @throws SandboxError ERR_PERMISSION */
  async collect(): Promise<Snapshot> {
    const startedAtMs = performance.now();
    const { aheadMs, waitMs } = this.#tuning;
    const entries = this.#present();
    this.#expect(startedAtMs);
    const overdue = entries.filter(
      ({ snapshot, lookedAtMs }) => snapshot === undefined || startedAtMs - lookedAtMs > 2 * aheadMs,
    );
    if (overdue.length > 0)
      await withDeadline(Promise.all(overdue.map((entry) => this.#look(entry))), waitMs, "looking").catch(
        () => undefined,
      );
    const sandboxes = entries.map(
      (entry) => entry.snapshot ?? snapshotOf(entry, recordOf(entry), false, false),
    );
    return { sandboxes, seconds: (performance.now() - startedAtMs) / 1000 };
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
    this.#askedAtMs.length = 0;
    for (const entry of this.#entries.values()) entry.close();
    this.#entries.clear();
  }

  #present(): Entry[] {
    const found = new Map(this.#init.find().map((one) => [one.dir, one]));
    for (const [dir, entry] of this.#entries) {
      if (found.has(dir)) continue;
      entry.close();
      this.#entries.delete(dir);
    }
    for (const [dir, one] of found) {
      const entry = this.#entries.get(dir);
      if (entry === undefined) this.#entries.set(dir, new Entry(one));
      else entry.found = one;
    }
    return [...this.#entries.values()];
  }

  /** Plans the looks ahead of the question that comes next. */
  #expect(nowMs: number): void {
    this.#askedAtMs.push(nowMs);
    if (this.#askedAtMs.length > REMEMBERED + 1) this.#askedAtMs.shift();
    this.#expectedAtMs = nowMs + this.#intervalMs();
    this.#arm();
  }

  /** From one question to the next. */
  #intervalMs(): number {
    const { aheadMs } = this.#tuning;
    const times = this.#askedAtMs;
    const between = times.slice(1).map((at, index) => at - (times[index] ?? at));
    return between.length === 0 ? aheadMs : Math.max(aheadMs, Math.min(...between));
  }

  /** The next turn: when the time ahead of the question begins, then so often that each sandbox has one in it. */
  #arm(): void {
    const { aheadMs } = this.#tuning;
    const now = performance.now();
    const stepMs = (aheadMs * SPREAD) / Math.max(1, this.#entries.size);
    const atMs = Math.max(this.#expectedAtMs - aheadMs, now + stepMs);
    if (this.#timer !== undefined && this.#timerAtMs <= atMs) return;
    clearTimeout(this.#timer);
    this.#timerAtMs = atMs;
    this.#timer = setTimeout(() => this.#turn(), atMs - now).unref();
  }

  #turn(): void {
    this.#timer = undefined;
    const { aheadMs } = this.#tuning;
    const now = performance.now();
    const lastAskedMs = this.#askedAtMs.at(-1) ?? Number.NEGATIVE_INFINITY;
    if (now - lastAskedMs > PATIENCE * this.#intervalMs()) return;
    // Nobody came: perhaps the next time.
    if (now > this.#expectedAtMs) this.#expectedAtMs += this.#intervalMs();
    const beginsMs = this.#expectedAtMs - aheadMs;
    if (now >= beginsMs) {
      const next = this.#longestUnseen(beginsMs);
      if (next !== undefined) void this.#look(next);
    }
    this.#arm();
  }

  /** Of those not looked at since `sinceMs`. */
  #longestUnseen(sinceMs: number): Entry | undefined {
    let found: Entry | undefined;
    try {
      for (const entry of this.#present())
        if (entry.looking === undefined && entry.lookedAtMs < (found?.lookedAtMs ?? sinceMs)) found = entry;
    } catch {
      // Who asks next is told.
    }
    return found;
  }

  /** One look at a time. Never rejects. */
  #look(entry: Entry): Promise<void> {
    entry.looking ??= this.#see(entry)
      .catch(() => undefined)
      .finally(() => {
        entry.looking = undefined;
      });
    return entry.looking;
  }

  async #see(entry: Entry): Promise<void> {
    entry.lookedAtMs = performance.now();
    const record = recordOf(entry);
    const measured = measureMemory(record, entry);
    const up = record.owned && (await this.#answered(record, entry));
    await measured;
    entry.snapshot = snapshotOf(entry, record, up);
    this.#init.onLook?.(entry.snapshot);
  }

  /** Whether the shim answered in time. A question that is still open is not asked again. */
  async #answered(record: SandboxRecord, entry: Entry): Promise<boolean> {
    entry.asking ??= ask(record, entry).finally(() => {
      entry.asking = undefined;
    });
    return await withDeadline(entry.asking, this.#tuning.answerMs, "asking the shim").catch(() => false);
  }
}

/** The sandbox as it is now. A shim that took another's place has nothing of its figures. */
function recordOf(entry: Entry): SandboxRecord {
  const record = sandboxRecord(entry.found.dir, entry.found.journal);
  const shimPid = record.processes.find(({ name }) => name === "shim")?.pid;
  if (shimPid === undefined || shimPid === entry.shimPid) return record;
  entry.close();
  entry.shimPid = shimPid;
  entry.status = undefined;
  entry.stats = undefined;
  entry.askedAtMs = undefined;
  entry.guestAskedAtMs = undefined;
  entry.memoryAtMs = Number.NEGATIVE_INFINITY;
  return record;
}

function snapshotOf(entry: Entry, record: SandboxRecord, up: boolean, seen = true): SandboxSnapshot {
  const processes = usageByComponent(record.processes);
  const { status, stats, askedAtMs, guestAskedAtMs } = entry;
  // Those of an orphan go one by one.
  const memory = new Map([...entry.memory].filter(([component]) => processes.has(component)));
  const guestUp = up && guestAskedAtMs !== undefined && guestAskedAtMs === askedAtMs;
  return { record, status, stats, seen, up, guestUp, askedAtMs, guestAskedAtMs, processes, memory };
}

/** Whether there was an answer. Never rejects. */
async function ask(record: SandboxRecord, entry: Entry): Promise<boolean> {
  const askedAtMs = performance.now();
  try {
    entry.control ??= connectControl(record);
    const { calls } = await entry.control;
    const [stats, status] = await Promise.all([calls.stats({}), calls.status({})]);
    const { stats: before } = entry;
    if (stats.guest !== undefined) entry.guestAskedAtMs = askedAtMs;
    // What the guest said last stays, with its age.
    else if (before?.guest !== undefined)
      Object.assign(stats, { guest: before.guest, containers: before.containers });
    entry.stats = stats;
    entry.status = status;
    entry.askedAtMs = askedAtMs;
    return true;
  } catch (error) {
    // A shim that is only slow keeps its connection.
    if (!(error instanceof SandboxError && error.code === "ERR_DEADLINE")) entry.close();
    return false;
  }
}

/** 0 when it has just ended. */
function quietBytes(name: string, pid: number, rollup: string): number {
  try {
    return proportionalBytes(name, pid, rollup);
  } catch {
    return 0;
  }
}

/** Measures when the last time is long ago. Never rejects. */
async function measureMemory({ processes }: SandboxRecord, entry: Entry): Promise<void> {
  if (performance.now() - entry.memoryAtMs < PSS_AGE_MS) return;
  entry.memoryAtMs = performance.now();
  const memory = new Map<string, number>();
  for (const { name, pid } of withDescendants(processes)) {
    const text = await fs.readFile(`/proc/${pid}/smaps_rollup`, "latin1").catch(() => "");
    if (text === "") continue;
    const component = componentName(name);
    memory.set(component, (memory.get(component) ?? 0) + quietBytes(name, pid, text));
  }
  entry.memory = memory;
}
