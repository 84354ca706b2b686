/** Runs a command to its end and keeps what it printed, bounded in time. */

import { spawn } from "node:child_process";
import { PassThrough, type Readable } from "node:stream";
import { scaledMs } from "../../src/base/timeouts.ts";

export interface RunOptions {
  /** Milliseconds before the command's whole process group is killed; 60 s when absent; stretched as the shim's are. */
  readonly timeoutMs?: number;
  /** Fed to standard input, which is /dev/null otherwise. */
  readonly input?: Uint8Array | string | Readable;
  readonly env?: NodeJS.ProcessEnv;
  readonly cwd?: string;
  /** Takes standard output as it comes; `stdout` of the result is then empty. */
  readonly onStdout?: (chunk: Buffer) => void;
}

export interface RunResult {
  readonly command: string;
  /** Exit code; 128 plus the signal's number is not synthesised here: see `signal`. */
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
  readonly durationMs: number;
  readonly timedOut: boolean;
}

/** Runs `argv`. Never rejects for a failing command; only when it cannot be started. */
export function run(argv: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  const [file = "", ...args] = argv;
  const started = performance.now();
  return new Promise((resolve, reject) => {
    const child = spawn(file, args, {
      cwd: options.cwd,
      env: options.env ?? process.env,
      detached: true,
      stdio: [options.input === undefined ? "ignore" : "pipe", "pipe", "pipe"],
    });
    const stdout: Buffer[] = [];
    const stderr: Buffer[] = [];
    let timedOut = false;
    const timer = setTimeout(
      () => {
        timedOut = true;
        killGroup(child.pid);
      },
      scaledMs(options.timeoutMs ?? 60_000),
    );
    child.stdout?.on("data", (chunk: Buffer) => {
      if (options.onStdout === undefined) stdout.push(chunk);
      else options.onStdout(chunk);
    });
    child.stderr?.on("data", (chunk: Buffer) => stderr.push(chunk));
    feed(child.stdin, options.input);
    child.on("error", (error) => {
      clearTimeout(timer);
      reject(error);
    });
    child.on("close", (code, signal) => {
      clearTimeout(timer);
      resolve({
        command: argv.join(" "),
        code,
        signal,
        stdout: Buffer.concat(stdout).toString(),
        stderr: Buffer.concat(stderr).toString(),
        durationMs: performance.now() - started,
        timedOut,
      });
    });
  });
}

/** Like `run`, but a non-zero exit, a signal or a time-out is an error that shows the output. */
export async function runOk(argv: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  const result = await run(argv, options);
  if (result.code !== 0) throw new Error(describeResult(result));
  return result;
}

/**
 * Standard input that holds `text` and ends when the command has printed its first bytes: ctr 1.6 forgets an end of
 * file that comes before the container's process runs, with any runtime.
 */
export function inputOnceStarted(text: string | Uint8Array) {
  const input = new PassThrough();
  input.write(text);
  let output = "";
  const onStdout = (chunk: Buffer) => {
    if (output === "") input.end();
    output += chunk.toString();
  };
  return { input, onStdout, output: () => output };
}

/** The outcome with the end of both outputs, for a failure's message. */
export function describeResult(result: RunResult): string {
  const end = result.timedOut ? "timed out" : `exit ${result.code ?? result.signal}`;
  const tail = (text: string) => text.trimEnd().split("\n").slice(-30).join("\n");
  return `${result.command}\n${end} after ${Math.round(result.durationMs)} ms\nstdout: ${tail(result.stdout)}\nstderr: ${tail(result.stderr)}`;
}

function feed(stdin: NodeJS.WritableStream | null, input: RunOptions["input"]): void {
  if (stdin === null || input === undefined) return;
  // The command may end before it has read everything.
  stdin.on("error", () => undefined);
  if (typeof input === "string" || input instanceof Uint8Array) stdin.end(input);
  else input.pipe(stdin);
}

function killGroup(pid: number | undefined): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, "SIGKILL");
  } catch {
    // It ended by itself meanwhile.
  }
}
