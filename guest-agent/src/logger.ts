/**
 * The agent's log: JSON lines on the console until the host is connected, and log events to the host from then on.
 * One line per record, with the keys of src/base/log-fields.ts.
 */
import * as sys from "sys";
import type { Log, LogFields } from "../../src/base/log.ts";
import { type LogLevel, logLevels } from "./boot/command-line.ts";
import { CLOCK_BOOTTIME } from "./linux.ts";

export interface LogEntry {
  readonly level: LogLevel;
  readonly message: string;
  readonly fields: LogFields;
}

export type LogSink = (entry: LogEntry) => void;

/** Where records go and which; shared by a logger and its children. */
export interface LogOutput {
  level: LogLevel;
  sink: LogSink;
}

/** JSON of log fields; a BigInt becomes a string. */
export function toJson(fields: LogFields): string {
  return JSON.stringify(fields, (_key, value: unknown) =>
    typeof value === "bigint" ? String(value) : value,
  );
}

/** Prints to stderr: PID 1's is the console. */
export function printEntry({ level, message, fields }: LogEntry): void {
  const record = { uptimeUs: sys.clockUs(CLOCK_BOOTTIME), level, msg: message, ...fields };
  const line = toJson(record);
  try {
    sys.write(2, sys.encodeUtf8(`caisson-agent ${line}\n`));
  } catch {
    // Without a console there is nobody to tell.
  }
}

class AgentLog implements Log {
  readonly #output: LogOutput;
  readonly #fields: LogFields;

  constructor(output: LogOutput, fields: LogFields) {
    this.#output = output;
    this.#fields = fields;
  }

  error(fields: LogFields, message: string): void {
    this.#write("error", fields, message);
  }
  warn(fields: LogFields, message: string): void {
    this.#write("warn", fields, message);
  }
  info(fields: LogFields, message: string): void {
    this.#write("info", fields, message);
  }
  debug(fields: LogFields, message: string): void {
    this.#write("debug", fields, message);
  }
  trace(fields: LogFields, message: string): void {
    this.#write("trace", fields, message);
  }
  child(fields: LogFields): Log {
    return new AgentLog(this.#output, { ...this.#fields, ...fields });
  }

  #write(level: LogLevel, fields: LogFields, message: string): void {
    if (logLevels.indexOf(level) > logLevels.indexOf(this.#output.level)) return;
    this.#output.sink({ level, message, fields: { ...this.#fields, ...fields } });
  }
}

export function createLog(output: LogOutput): Log {
  return new AgentLog(output, {});
}
