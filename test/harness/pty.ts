/** A program on a pseudo terminal, with the test at the keyboard (pty-tool.c). */
import { type ChildProcess, spawn } from "node:child_process";
import { join } from "node:path";
import type { Readable, Writable } from "node:stream";
import { repositoryRoot } from "./paths.ts";
import { runOk } from "./run.ts";

/** What a terminal driver does with input and output by itself; all true in a shell's terminal, all false in a raw one. */
export interface TerminalModes {
  readonly canonical: boolean;
  readonly echo: boolean;
  readonly signals: boolean;
  readonly outputProcessing: boolean;
}

export const COOKED: TerminalModes = { canonical: true, echo: true, signals: true, outputProcessing: true };

export interface PtyInit {
  readonly rows?: number;
  readonly columns?: number;
  readonly env?: NodeJS.ProcessEnv;
}

const LIMIT_MS = 180_000;

/** Compiles the tool. @param dir where to put it @returns its path */
export async function buildPtyTool(dir: string): Promise<string> {
  const program = join(dir, "pty-tool");
  const source = join(repositoryRoot, "test/harness/pty-tool.c");
  await runOk(["gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-o", program, source]);
  return program;
}

export class Pty implements AsyncDisposable {
  readonly #child: ChildProcess;
  #output = "";
  #answers = "";
  /** Where `waitFor` goes on to look. */
  #seen = 0;
  readonly #waiting = new Set<() => void>();

  /** @param tool from `buildPtyTool` */
  constructor(tool: string, argv: readonly string[], { rows = 24, columns = 80, env }: PtyInit = {}) {
    this.#child = spawn(tool, [String(rows), String(columns), ...argv], {
      env: { ...process.env, TERM: "xterm", ...env },
      stdio: ["pipe", "pipe", "inherit", "pipe", "pipe"],
    });
    this.#child.stdin?.on("error", () => undefined);
    this.#child.stdout?.on("data", (chunk: Buffer) => {
      this.#output += chunk.toString();
      this.#changed();
    });
    (this.#child.stdio[4] as Readable).on("data", (chunk: Buffer) => {
      this.#answers += chunk.toString();
      this.#changed();
    });
    this.#child.once("close", () => this.#changed());
  }

  /** Everything that was shown. */
  get output(): string {
    return this.#output;
  }

  type(text: string): void {
    this.#child.stdin?.write(text);
  }

  resize(rows: number, columns: number): void {
    this.#tell(`size ${rows} ${columns}`);
  }

  /** Resolves with the match once the output behind the last match has it. */
  async waitFor(what: RegExp): Promise<RegExpExecArray> {
    const found = await this.#until(() => what.exec(this.#output.slice(this.#seen)), String(what));
    this.#seen += found.index + found[0].length;
    return found;
  }

  /** The modes now. */
  async modes(): Promise<TerminalModes> {
    const before = this.#allModes().length;
    this.#tell("modes");
    return await this.#until(() => this.#allModes()[before], "the terminal's modes");
  }

  /** Exit code (or 128 + signal) once the program has ended, and the modes that it left. */
  async ended(): Promise<{ status: number; modes: TerminalModes }> {
    const found = await this.#until(() => /^exit (\d+)$/m.exec(this.#answers), "the end of the program");
    const modes = this.#allModes().at(-1);
    if (modes === undefined) throw new Error("the terminal's modes are not known");
    return { status: Number(found[1]), modes };
  }

  /** Closes the terminal's window, so to say; the tool goes when the program has. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const closed = new Promise((resolve) => this.#child.once("close", resolve));
    (this.#child.stdio[3] as Writable).end();
    await closed;
  }

  #tell(line: string): void {
    (this.#child.stdio[3] as Writable).write(`${line}\n`);
  }

  #allModes(): TerminalModes[] {
    return [...this.#answers.matchAll(/^modes (\d) (\d) (\d) (\d)$/gm)].map(
      ([, canonical, echo, signals, outputProcessing]) => ({
        canonical: canonical === "1",
        echo: echo === "1",
        signals: signals === "1",
        outputProcessing: outputProcessing === "1",
      }),
    );
  }

  #changed(): void {
    for (const one of [...this.#waiting]) one();
  }

  #until<T>(look: () => T | null | undefined, what: string): Promise<T> {
    return new Promise((resolve, reject) => {
      const settle = (then: () => void) => {
        clearTimeout(timer);
        this.#waiting.delete(check);
        then();
      };
      const check = () => {
        const found = look();
        if (found !== null && found !== undefined) settle(() => resolve(found));
        else if (this.#child.exitCode !== null)
          settle(() => reject(this.#missing(what, "the program ended")));
      };
      const late = () => settle(() => reject(this.#missing(what, `nothing in ${LIMIT_MS / 1000} s`)));
      const timer = setTimeout(late, LIMIT_MS);
      this.#waiting.add(check);
      check();
    });
  }

  #missing(what: string, why: string): Error {
    return new Error(`waiting for ${what}: ${why}; the terminal shows ${JSON.stringify(this.#output)}`);
  }
}
