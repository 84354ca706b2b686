/** Steps that take a while: what is being done, a sign of life every five seconds, and how long it took. */
import { spawn } from "node:child_process";
import { closeSync, mkdirSync, openSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { niceSession } from "./niceness.ts";
import { logs } from "./places.ts";

const SIGN_OF_LIFE_MS = 5_000;
const TAIL_LINES = 30;
const COMMAND_LIMIT_MS = 3_600_000;
const END_SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/** In front of a command: the kernel kills it when we are gone, be it by SIGKILL (prctl(2), PR_SET_PDEATHSIG). */
export const ENDS_WITH_US = ["/usr/bin/setpriv", "--pdeathsig", "KILL"] as const;

export function say(text: string): void {
  process.stderr.write(`lab: ${text}\n`);
}

const secondsSince = (started: number) => ((performance.now() - started) / 1000).toFixed(1);

export interface StepTexts<T> {
  /** What is to be shown with the time when it is done. */
  readonly note?: (result: T) => string;
  /** What is to be shown with a sign of life. */
  readonly now?: () => string;
}

/** Runs `work` as a step. */
export async function step<T>(
  title: string,
  work: () => Promise<T>,
  { note = () => "", now = () => "" }: StepTexts<T> = {},
): Promise<T> {
  const started = performance.now();
  say(`${title} ...`);
  const sign = setInterval(() => {
    const text = now();
    say(`${title}: ${secondsSince(started)} s${text === "" ? "" : `: ${text}`}`);
  }, SIGN_OF_LIFE_MS);
  const result = await work().finally(() => clearInterval(sign));
  const text = note(result);
  say(`${title}: done in ${secondsSince(started)} s${text === "" ? "" : ` (${text})`}`);
  return result;
}

export interface CommandOptions {
  readonly env?: NodeJS.ProcessEnv;
  readonly timeoutMs?: number;
}

/** A step that is one command, with its output in a log. @throws with the end of the log when it fails. */
export async function commandStep(
  title: string,
  argv: readonly string[],
  options: CommandOptions = {},
): Promise<void> {
  mkdirSync(logs, { recursive: true });
  const log = join(logs, `${title.replaceAll(/[^a-z0-9]+/gi, "-")}.log`);
  const now = () => lastLines(log, 1)[0]?.slice(0, 90) ?? "";
  await step(title, () => loggedCommand(title, argv, log, options), { now });
}

const lastLines = (log: string, count: number): string[] =>
  readFileSync(log, "utf8")
    .trimEnd()
    .split(/[\n\r]/)
    .slice(-count);

function loggedCommand(
  title: string,
  argv: readonly string[],
  log: string,
  options: CommandOptions,
): Promise<void> {
  const [file, ...args] = [...ENDS_WITH_US, ...argv];
  const fd = openSync(log, "w");
  const child = spawn(file, args, {
    stdio: ["ignore", fd, fd],
    env: { ...process.env, ...options.env },
    timeout: options.timeoutMs ?? COMMAND_LIMIT_MS,
    detached: true, // a group of its own, all of which ends when we are told to
  });
  closeSync(fd);
  if (child.pid !== undefined) niceSession(child.pid);
  const endGroup = (signal: NodeJS.Signals) => {
    if (child.pid !== undefined) process.kill(-child.pid, "SIGKILL");
    process.kill(process.pid, signal);
  };
  for (const signal of END_SIGNALS) process.once(signal, endGroup);
  return new Promise<void>((resolve, reject) => {
    child.once("error", reject);
    child.once("exit", (code, signal) => {
      if (code === 0) resolve();
      else
        reject(
          new Error(
            `${title} failed (${code ?? signal}); from ${log}:\n${lastLines(log, TAIL_LINES).join("\n")}`,
          ),
        );
    });
  }).finally(() => {
    for (const signal of END_SIGNALS) process.off(signal, endGroup);
  });
}
