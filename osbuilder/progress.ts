/** What a run tells the person who started it, while it works. */
export { formatBytes } from "../src/cli/index.ts";

export interface Progress {
  /** A step that was done: what it was, what came of it, and how long it took. */
  step(name: string, detail: string, durationMs?: number): void;
  /** A line of explanation below a step. */
  detail(text: string): void;
  warn(text: string): void;
}

/** Tells nothing. */
export const silentProgress: Progress = { step() {}, detail() {}, warn() {} };

/** Writes one line per call; `write` gets whole lines. */
export function textProgress(write: (line: string) => void): Progress {
  return {
    step(name, detail, durationMs) {
      const time = durationMs === undefined ? "" : `  (${Math.round(durationMs)} ms)`;
      write(`${name.padEnd(9)} ${detail}${time}\n`);
    },
    detail: (text) => write(`${" ".repeat(10)}${text}\n`),
    warn: (text) => write(`warning   ${text}\n`),
  };
}
