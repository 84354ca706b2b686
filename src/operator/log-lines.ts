/** The records of a sandbox's log files: reading them, putting them in order, writing them for people. */
import fs from "node:fs";
import type { Paint } from "../cli/index.ts";

export interface LogRecord {
  /** ISO 8601; sorts as text. */
  readonly time: string;
  /** shim, agent, console, qemu, virtiofsd, ... */
  readonly component: string;
  readonly level: string;
  readonly message: string;
  readonly fields: Readonly<Record<string, unknown>>;
  /** The line as it is in the file. */
  readonly raw: string;
}

/** Fields that every record of a sandbox has alike. */
const COMMON = new Set(["time", "level", "msg", "component", "sandbox", "pid"]);

/** A line of shim.log or console.log; what is not JSON is a message of its own. Pure. */
export function parseLogLine(raw: string): LogRecord {
  let value: Record<string, unknown> = {};
  try {
    const parsed: unknown = JSON.parse(raw);
    if (typeof parsed === "object" && parsed !== null) value = parsed as Record<string, unknown>;
  } catch {
    // A line that was cut by a full file system.
  }
  const text = (key: string, fallback: string) => {
    const field = value[key];
    return typeof field === "string" ? field : fallback;
  };
  return {
    time: text("time", ""),
    component: text("component", "shim"),
    level: text("level", "info"),
    message: text("msg", Object.keys(value).length === 0 ? raw : ""),
    fields: Object.fromEntries(Object.entries(value).filter(([key]) => !COMMON.has(key))),
    raw,
  };
}

/** By time; records of one time stay in the order of their files. Pure. */
export function inOrder(records: readonly LogRecord[]): LogRecord[] {
  return [...records].sort((a, b) => (a.time < b.time ? -1 : a.time > b.time ? 1 : 0));
}

/** "08:12:13.123 agent     warn  message  key=value". What a guest wrote cannot move the cursor or paint. Pure. */
export function formatRecord(record: LogRecord, paint: Paint): string {
  const time = /T(\d\d:\d\d:\d\d\.\d{3})/.exec(record.time)?.[1] ?? "";
  const fields = Object.entries(record.fields)
    .filter(([, value]) => value !== undefined && value !== "")
    .map(
      ([key, value]) =>
        `${key}=${typeof value === "string" && /^[^\s"]+$/.test(value) ? value : JSON.stringify(value)}`,
    );
  const component = printable(record.component);
  const level = component === "console" ? "" : printable(record.level);
  const painted =
    level === "error"
      ? paint("red", level.padEnd(5))
      : level === "warn"
        ? paint("yellow", level.padEnd(5))
        : level.padEnd(5);
  const body = [printable(record.message), paint("dim", printable(fields.join(" ")))].filter(
    (part) => part !== "",
  );
  return `${paint("dim", time)} ${component.padEnd(9)} ${painted} ${body.join("  ")}`.trimEnd();
}

/** Control characters, other than the tab, as Unicode's pictures of them; those of C1 as the one of DEL. */
function printable(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is looked for
  return text.replace(/[\x00-\x08\x0a-\x1f\x7f-\x9f]/g, (char) => {
    const code = char.charCodeAt(0);
    return code < 0x20 ? String.fromCharCode(0x2400 + code) : "\u2421";
  });
}

/** A log file that is read on as it grows, across its renaming to `<path>.1`. */
export class LogTail {
  readonly #path: string;
  #inode = -1;
  #offset = 0;
  #partial = "";

  constructor(path: string) {
    this.#path = path;
  }

  /** The records since the last call; at first everything that is kept. */
  read(): LogRecord[] {
    const first = this.#inode < 0;
    const stat = fs.statSync(this.#path, { throwIfNoEntry: false });
    const lines: string[] = [];
    if (first) lines.push(...this.#readFrom(`${this.#path}.1`, 0).split("\n"));
    if (!first && stat !== undefined && stat.ino !== this.#inode) {
      // Renamed since: the rest of the old file first.
      lines.push(...this.#take(this.#readFrom(`${this.#path}.1`, this.#offset)));
      this.#offset = 0;
    }
    if (stat !== undefined) {
      this.#inode = stat.ino;
      lines.push(...this.#take(this.#readFrom(this.#path, this.#offset)));
    }
    return lines.filter((line) => line !== "").map(parseLogLine);
  }

  /** Whole lines of `text` behind what was left of the last read. */
  #take(text: string): string[] {
    this.#offset += Buffer.byteLength(text);
    const lines = (this.#partial + text).split("\n");
    this.#partial = lines.pop() ?? "";
    return lines;
  }

  #readFrom(path: string, offset: number): string {
    let fd: number;
    try {
      fd = fs.openSync(path, "r");
    } catch {
      return "";
    }
    try {
      const size = Math.max(0, fs.fstatSync(fd).size - offset);
      const bytes = Buffer.alloc(size);
      const count = fs.readSync(fd, bytes, 0, size, offset);
      return bytes.toString("utf8", 0, count);
    } finally {
      fs.closeSync(fd);
    }
  }
}
