/**
 * A child process as one object: QEMU, virtiofsd, the vsock backend.
 *
 * The child dies with us (PR_SET_PDEATHSIG through util-linux' setpriv, since Node cannot call prctl), its last output
 * is kept, and an exit that nobody asked for can be told from a stop. It gets no environment but what is named here.
 */
import { accessSync, constants } from "node:fs";
import type { Readable, Writable } from "node:stream";
import { errnoOf, SandboxError } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { logField } from "../base/log-fields.ts";
import { timeoutMs } from "../base/timeouts.ts";
import type { AsyncReleasable } from "../base/undo.ts";
import { LineSplitter, TailBuffer } from "./tail-buffer.ts";

/** Milliseconds that output pipes may stay open after the exit (a grandchild may hold them) before they are cut. */
const OUTPUT_GRACE_MS = 250;

export interface ChildInit {
  /** For messages and logs: "qemu", "virtiofsd". */
  readonly name: string;
  /** Absolute path of the program. */
  readonly file: string;
  readonly args: readonly string[];
  /** The whole environment of the child; default: PATH and a C.UTF-8 locale. */
  readonly env?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  /** Descriptors of ours that the child gets as 3, 4, … in this order. They stay ours: close them after the call. */
  readonly inheritFds?: readonly number[];
  /** A network namespace to run in, e.g. /run/netns/x. */
  readonly netnsPath?: string;
  /** What it gets when we die; default KILL. */
  readonly parentDeathSignal?: "KILL" | "TERM";
  /** Keep the capabilities when it takes on another user (SECBIT_NO_SETUID_FIXUP, capabilities(7)). */
  readonly keepCapabilities?: boolean;
  /** It is told something on its standard input (input()); default: that is /dev/null. */
  readonly takesInput?: boolean;
  /** "capture" keeps the last 64 KiB of the child's stdout; default "ignore" (/dev/null). */
  readonly stdout?: "capture" | "ignore";
  /** Called for each line of a captured stdout, cut at 8 KiB. Must not throw. */
  readonly onStdoutLine?: (line: string) => void;
  /** Called for each line of stderr, cut at 8 KiB. Must not throw. */
  readonly onStderrLine?: (line: string) => void;
  readonly log: Log;
}

/** How a child ended. */
export interface ChildExit {
  /** Exit code, when it exited. */
  readonly code: number | undefined;
  /** Signal name, when it was killed by one. */
  readonly signal: string | undefined;
  /** True when stop() or kill() had been called: not a crash. */
  readonly requested: boolean;
  /** "exited with code 1", "was killed by SIGSEGV". */
  readonly description: string;
  /** The last 64 KiB of its stderr. */
  readonly stderrTail: string;
}

/** A running (or ended) child. Release it with stop(), kill() or disposal, which is stop(). */
export interface SupervisedChild extends AsyncReleasable {
  readonly name: string;
  readonly pid: number;
  /** Resolves once, after the exit and the end of its output; never rejects. */
  readonly exited: Promise<ChildExit>;
  /**
   * Resolves with the reason, in one sentence with the last stderr lines, when it ended unasked; else stays pending.
   * Its field `exitCode` is 0 when the child found nothing wrong.
   */
  readonly crashed: Promise<SandboxError>;
  /** The exit when it already happened. */
  readonly exit: ChildExit | undefined;
  readonly stdout: TailBuffer;
  readonly stderr: TailBuffer;
  /** What a child that takes input reads, which then ends: called once. One that has ended reads nothing. */
  input(text: string): void;
  /** SIGTERM, then SIGKILL after timeoutMs("childStop"). Resolves with the exit; may be called again. */
  stop(): Promise<ChildExit>;
  /** SIGKILL. Resolves with the exit. */
  kill(): Promise<ChildExit>;
}

export type SpawnChild = (init: ChildInit) => SupervisedChild;

/**
 * Loads the process library and returns a synchronous spawner: when it returns, the child has been forked and has its
 * own copies of the inherited descriptors, before the event loop could run anything else.
 */
export async function loadSupervisor(): Promise<SpawnChild> {
  const { execa } = await import("execa");
  return (init) => new ExecaChild(execa, init);
}

/**
 * Starts a supervised child.
 * @throws SandboxError ERR_HOST when the program is missing or cannot be executed.
 */
export async function superviseChild(init: ChildInit): Promise<SupervisedChild> {
  const spawn = await loadSupervisor();
  return spawn(init);
}

const toolDirectories = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"] as const;

/** The path of a util-linux program. @throws SandboxError ERR_HOST naming the package. */
function utilLinux(name: "setpriv" | "nsenter"): string {
  for (const directory of toolDirectories) {
    const path = `${directory}/${name}`;
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // Looked for in the next directory.
    }
  }
  throw new SandboxError("ERR_HOST", `${name} was not found; install util-linux`);
}

/**
 * The command that is really run: `[nsenter --net=PATH --] setpriv --pdeathsig KILL -- FILE ARGS`. Each step execs the
 * next, so the pid stays the same; setpriv comes last because the signal setting is per process and must be the
 * child's own.
 */
export function childCommand(
  init: Pick<ChildInit, "file" | "args" | "netnsPath" | "parentDeathSignal" | "keepCapabilities">,
): {
  file: string;
  args: string[];
} {
  const command = [
    utilLinux("setpriv"),
    "--pdeathsig",
    init.parentDeathSignal ?? "KILL",
    ...(init.keepCapabilities === true ? ["--securebits", "+no_setuid_fixup"] : []),
    "--",
    init.file,
    ...init.args,
  ];
  if (init.netnsPath !== undefined) command.unshift(utilLinux("nsenter"), `--net=${init.netnsPath}`, "--");
  const [file, ...args] = command as [string, ...string[]];
  return { file, args };
}

function checkExecutable(init: ChildInit): void {
  try {
    accessSync(init.file, constants.X_OK);
  } catch (cause) {
    const why = errnoOf(cause) === "ENOENT" ? "not found" : "not executable";
    throw new SandboxError("ERR_HOST", `cannot start ${init.name}: ${init.file} is ${why}`, {
      cause,
      fields: { [logField.path]: init.file },
    });
  }
}

class ExecaChild implements SupervisedChild {
  readonly name: string;
  readonly pid: number;
  readonly exited: Promise<ChildExit>;
  readonly crashed: Promise<SandboxError>;
  readonly stdout = new TailBuffer();
  readonly stderr = new TailBuffer();
  readonly #log: Log;
  /** Ends the run: aborting it kills the child; it is aborted after the exit too, which ends every wait. */
  readonly #controller = new AbortController();
  readonly #signal: (signal: NodeJS.Signals) => void;
  readonly #stdin: Writable | undefined;
  #exit: ChildExit | undefined;
  #requested = false;

  constructor(execa: typeof import("execa").execa, init: ChildInit) {
    this.name = init.name;
    this.#log = init.log;
    checkExecutable(init);
    const command = childCommand(init);
    // Any descriptor number works; execa's types list only 3 to 9.
    const extraFds = (init.inheritFds ?? []) as readonly 3[];
    const subprocess = execa(command.file, command.args, {
      stdio: [
        init.takesInput === true ? "pipe" : "ignore",
        init.stdout === "capture" ? "pipe" : "ignore",
        "pipe",
        ...extraFds,
      ],
      env: { ...(init.env ?? { PATH: "/usr/sbin:/usr/bin:/sbin:/bin", LC_ALL: "C.UTF-8" }) },
      extendEnv: false,
      ...(init.cwd === undefined ? {} : { cwd: init.cwd }),
      // Output is read here, into bounded buffers; ends with us by PDEATHSIG and not by exit hooks.
      buffer: false,
      reject: false,
      cleanup: false,
      cancelSignal: this.#controller.signal,
      killSignal: "SIGKILL",
      forceKillAfterDelay: false,
    });
    this.#signal = (signal) => void subprocess.kill(signal);
    // A child that ends before it has read is seen by its exit.
    subprocess.stdin?.on("error", () => undefined);
    this.#stdin = subprocess.stdin ?? undefined;
    const outputs = [
      consume(subprocess.stdout, this.stdout, init.onStdoutLine),
      consume(subprocess.stderr, this.stderr, init.onStderrLine),
    ];
    const left = new Promise<{ code: number | null; signal: string | null }>((resolve) => {
      subprocess.once("exit", (code, signal) => resolve({ code, signal }));
    });
    const finished = subprocess.catch(() => undefined);
    if (subprocess.pid === undefined) {
      throw new SandboxError("ERR_HOST", `cannot start ${init.name}: ${command.file} could not be executed`);
    }
    this.pid = subprocess.pid;
    this.#log.debug({ [logField.step]: init.name, [logField.pid]: this.pid }, "started");
    this.exited = left.then((how) => this.#settle(how, outputs, finished));
    this.crashed = new Promise((resolve) => {
      void this.exited.then((exit) => exit.requested || resolve(this.#crash(exit)));
    });
  }

  get exit(): ChildExit | undefined {
    return this.#exit;
  }

  input(text: string): void {
    this.#stdin?.end(text);
  }

  async stop(): Promise<ChildExit> {
    if (this.#exit !== undefined) return this.#exit;
    this.#requested = true;
    this.#signal("SIGTERM");
    const timer = setTimeout(() => this.#controller.abort(), timeoutMs("childStop"));
    try {
      return await this.exited;
    } finally {
      clearTimeout(timer);
    }
  }

  async kill(): Promise<ChildExit> {
    if (this.#exit === undefined) {
      this.#requested = true;
      this.#controller.abort();
    }
    return this.exited;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  async #settle(
    how: { code: number | null; signal: string | null },
    outputs: readonly Output[],
    finished: Promise<unknown>,
  ): Promise<ChildExit> {
    const requested = this.#requested;
    const timer = setTimeout(() => {
      for (const output of outputs) output.cut();
    }, OUTPUT_GRACE_MS);
    await Promise.all(outputs.map((output) => output.ended));
    clearTimeout(timer);
    await finished;
    this.#exit = {
      code: how.code ?? undefined,
      signal: how.signal ?? undefined,
      requested,
      description:
        how.signal === null ? `exited with code ${how.code ?? "?"}` : `was killed by ${how.signal}`,
      stderrTail: this.stderr.text(),
    };
    this.#report(this.#exit);
    return this.#exit;
  }

  #crash(exit: ChildExit): SandboxError {
    const said = this.stderr.lastLines(3).join("; ");
    const message = `${this.name} ${exit.description}${said === "" ? "" : `: ${said}`}`;
    return new SandboxError("ERR_UNAVAILABLE", message, {
      fields: { [logField.pid]: this.pid, exitCode: exit.code },
    });
  }

  #report(exit: ChildExit): void {
    const fields = { [logField.step]: this.name, [logField.pid]: this.pid };
    const text = `${this.name} ${exit.description}`;
    if (exit.requested) this.#log.debug(fields, text);
    else if (exit.code === 0) this.#log.info(fields, text);
    else this.#log.warn({ ...fields, stderr: this.stderr.lastLines(3).join(" | ") }, `${text} unasked`);
  }
}

interface Output {
  /** Resolves when the stream ended, broke or was cut. */
  readonly ended: Promise<void>;
  cut(): void;
}

function consume(
  stream: Readable | null | undefined,
  tail: TailBuffer,
  onLine: ((line: string) => void) | undefined,
): Output {
  if (stream === null || stream === undefined) return { ended: Promise.resolve(), cut() {} };
  const lines = onLine === undefined ? undefined : new LineSplitter(onLine);
  stream.on("data", (chunk: Buffer) => {
    tail.push(chunk);
    lines?.push(chunk);
  });
  // A broken pipe ends the output like EOF does; "close" follows "error".
  stream.on("error", () => undefined);
  const ended = new Promise<void>((resolve) => {
    stream.once("close", () => {
      lines?.flush();
      resolve();
    });
  });
  return { ended, cut: () => void stream.destroy() };
}
