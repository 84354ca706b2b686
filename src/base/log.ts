/** The shape of a logger, so that code below the entry points does not depend on pino. Portable. */
export type LogFields = Readonly<Record<string, unknown>>;
export interface Log {
  error(fields: LogFields, message: string): void;
  warn(fields: LogFields, message: string): void;
  info(fields: LogFields, message: string): void;
  debug(fields: LogFields, message: string): void;
  trace(fields: LogFields, message: string): void;
  /** A logger whose records carry `fields` too. */
  child(fields: LogFields): Log;
}

/** Drops everything. */
export const silentLog: Log = {
  error() {},
  warn() {},
  info() {},
  debug() {},
  trace() {},
  child: () => silentLog,
};
