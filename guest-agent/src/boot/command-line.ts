/** The agent's keys on the kernel command line (docs/protocol.md, "Kernel command line"). Pure. */

export type LogLevel = "error" | "warn" | "info" | "debug" | "trace";
export const logLevels: readonly LogLevel[] = ["error", "warn", "info", "debug", "trace"];

export interface AgentOptions {
  /** Host vsock port to dial for the hello. */
  readonly hostPort: number;
  /** What is printed on the console before the hello. */
  readonly logLevel: LogLevel;
  /** See failpoint.ts; empty outside of tests. */
  readonly failPoint: string;
  /** Become a template (template.ts). */
  readonly template: boolean;
}

const DEFAULT_PORT = 1024;
const MAX_PORT = 0xfffffffe;

/** Reads the keys; a value that makes no sense counts as absent, because a boot must not fail for it. */
export function parseCommandLine(text: string): AgentOptions {
  let hostPort = DEFAULT_PORT;
  let logLevel: LogLevel = "warn";
  let failPoint = "";
  let template = false;
  for (const word of text.trim().split(" ")) {
    if (word.startsWith("caisson.port=")) {
      const value = word.slice("caisson.port=".length);
      const port = Number(value);
      if (value !== "" && Number.isInteger(port) && port > 0 && port <= MAX_PORT) hostPort = port;
    } else if (word.startsWith("caisson.log=")) {
      logLevel = logLevels.find((level) => level === word.slice("caisson.log=".length)) ?? logLevel;
    } else if (word.startsWith("caisson.failpoint=")) {
      failPoint = word.slice("caisson.failpoint=".length);
    } else if (word === "caisson.template") {
      template = true;
    }
  }
  return { hostPort, logLevel, failPoint, template };
}
