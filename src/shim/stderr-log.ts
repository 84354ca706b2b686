/** A logger for short programs: warnings and errors as one plain line each on stderr. */
import type { Log, LogFields } from "../base/log.ts";

const line = (level: string) => (fields: LogFields, message: string) => {
  const details = Object.entries(fields).map(([key, value]) => ` ${key}=${String(value)}`);
  process.stderr.write(`${level}: ${message}${details.join("")}\n`);
};

export const stderrLog: Log = {
  error: line("error"),
  warn: line("warning"),
  info: () => undefined,
  debug: () => undefined,
  trace: () => undefined,
  child: () => stderrLog,
};
