/**
 * The journal of a sandbox: what exists on the host because of it, written ahead of every side effect, so that
 * `delete` can undo all of it from this file alone, whatever was killed when.
 *
 * One JSON object a line. `add` lines carry a record, `done` lines the number of a record that has been undone. The run
 * directory is a tmpfs: a killed process loses nothing that was written. A line is written whole or counts as not
 * written (then `add` throws and the side effect does not happen); what a full disk left of one is passed over.
 */
import fs from "node:fs";
import { SandboxError } from "../base/errors.ts";
import { type JournalRecord, parseRecord } from "./journal-record.ts";

export type { JournalRecord } from "./journal-record.ts";

/** The writer's share of the file system, so that a test can make it fail. */
export interface JournalFiles {
  /** write(2): may write less than it was given. */
  writeSync(fd: number, bytes: Uint8Array): number;
}

export class Journal {
  readonly path: string;
  readonly #files: JournalFiles;
  readonly #open = new Map<number, JournalRecord>();
  #fd: number | undefined;
  #next = 1;
  /** Whether the file ends in the middle of a line. */
  #torn = false;

  private constructor(path: string, fd: number, files: JournalFiles) {
    this.path = path;
    this.#fd = fd;
    this.#files = files;
  }

  /** Creates the journal file (0600); its directory must exist. @throws ERR_ALREADY_EXISTS when there is one. */
  static create(path: string, files: JournalFiles = fs): Journal {
    try {
      return new Journal(path, fs.openSync(path, "ax", 0o600), files);
    } catch (error) {
      const exists = (error as NodeJS.ErrnoException).code === "EEXIST";
      throw new SandboxError(
        exists ? "ERR_ALREADY_EXISTS" : "ERR_HOST",
        exists ? `a sandbox with the journal ${path} exists already` : `cannot create the journal ${path}`,
        { cause: error },
      );
    }
  }

  /**
   * Writes `record` ahead of its side effect and returns its number, to be given to `done` after the undo.
   * @throws ERR_EXHAUSTED when it could not be written whole: the side effect must not happen then.
   */
  add(record: JournalRecord): number {
    const number = this.#next++;
    try {
      this.#append({ add: number, record });
    } catch (error) {
      throw new SandboxError("ERR_EXHAUSTED", `cannot write the journal ${this.path}`, { cause: error });
    }
    this.#open.set(number, record);
    return number;
  }

  /** Notes that record `number` has been undone. Where that cannot be written, it is undone once more one day. */
  done(number: number): void {
    this.#open.delete(number);
    try {
      this.#append({ done: number });
    } catch {
      // every undo is idempotent
    }
  }

  /** The records that are not done, oldest first. */
  get open(): readonly JournalRecord[] {
    return [...this.#open.values()];
  }

  close(): void {
    if (this.#fd !== undefined) fs.closeSync(this.#fd);
    this.#fd = undefined;
  }

  #append(line: object): void {
    if (this.#fd === undefined) return; // closed: the sandbox is being removed with its directory
    // After a torn line the new one would become part of it.
    let rest: Uint8Array = Buffer.from(`${this.#torn ? "\n" : ""}${JSON.stringify(line)}\n`);
    while (rest.length > 0) {
      const written = this.#files.writeSync(this.#fd, rest);
      rest = rest.subarray(written);
      if (written > 0) this.#torn = rest.length > 0;
    }
  }
}

/**
 * The records of the journal at `path` that are not done, oldest first; empty when the file does not exist. What is not
 * a record is passed over: its side effect had not begun.
 */
export function readJournal(path: string): JournalRecord[] {
  let text: string;
  try {
    text = fs.readFileSync(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw new SandboxError("ERR_HOST", `cannot read the journal ${path}`, { cause: error });
  }
  return parseJournal(text);
}

/** The records of a journal's text that are not done, oldest first. Takes any text. */
export function parseJournal(text: string): JournalRecord[] {
  const open = new Map<number, JournalRecord>();
  for (const raw of text.split("\n")) {
    const line = parseLine(raw);
    const record = typeof line?.add === "number" ? parseRecord(line.record) : undefined;
    if (typeof line?.add === "number" && record !== undefined) open.set(line.add, record);
    if (typeof line?.done === "number") open.delete(line.done);
  }
  return [...open.values()];
}

interface Line {
  readonly add?: unknown;
  readonly done?: unknown;
  readonly record?: unknown;
}

function parseLine(raw: string): Line | undefined {
  if (raw === "") return undefined;
  try {
    const value: unknown = JSON.parse(raw);
    return typeof value === "object" && value !== null ? value : undefined;
  } catch {
    return undefined;
  }
}
