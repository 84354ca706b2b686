/**
 * The life of one process of a container, from its registration to its removal. Pure.
 *
 *   registered ──start──> starting ──program runs──> running ──reaped──> exited
 *       │                    │                                              ^
 *       │                    └──program cannot be executed──────────────────┤
 *       └──reaped (a first process that was killed while it waited)─────────┘
 *
 * An exit that is reaped while start() is under way is told only after start() has answered.
 */
import { SandboxError } from "../../../src/base/errors.ts";

export type ProcessState = "registered" | "starting" | "running" | "exited";

/** What waitpid reported, as a shell shows it. */
export function exitStatus(waitStatus: number): number {
  const signal = waitStatus & 0x7f;
  return signal === 0 ? (waitStatus >> 8) & 0xff : 128 + signal;
}

/** Status of a process whose program could not be executed. */
const STATUS_NOT_EXECUTED = 127;

export class ProcessLife {
  readonly containerId: string;
  readonly execId: string;
  #state: ProcessState = "registered";
  #pid: number | undefined;
  #status: number | undefined;
  /** An exit that was seen while start() was still under way. */
  #early: (() => void) | undefined;

  constructor(containerId: string, execId: string) {
    this.containerId = containerId;
    this.execId = execId;
  }

  get state(): ProcessState {
    return this.#state;
  }

  /** In the agent's pid namespace; undefined before there is a process. */
  get pid(): number | undefined {
    return this.#pid;
  }

  /** Exit code, or 128 + signal; undefined while it has not ended, as far as the kernel told. */
  get status(): number | undefined {
    return this.#status;
  }

  /** For error messages. */
  get name(): string {
    return this.execId === ""
      ? `container ${this.containerId}`
      : `exec ${this.execId} of container ${this.containerId}`;
  }

  cloned(pid: number): void {
    this.#pid = pid;
  }

  /** @throws ERR_STATE, ERR_PROCESS_FINISHED */
  beginStart(): void {
    if (this.#state === "exited") throw this.finished();
    if (this.#state !== "registered") {
      throw new SandboxError("ERR_STATE", `${this.name} cannot be started: it is ${this.#state}`);
    }
    this.#state = "starting";
  }

  /** The program runs, or ran: an exit that came meanwhile is told by `settle`. */
  started(): void {
    if (this.#state === "starting") this.#state = "running";
  }

  /** Nothing was executed; no exit is told. */
  failed(): void {
    this.#state = "exited";
    this.#status ??= STATUS_NOT_EXECUTED;
    this.#early = undefined;
  }

  /**
   * The kernel's word that it ended. `tell` is called now, or by `settle` once start() has answered.
   */
  reaped(waitStatus: number, tell: () => void): void {
    if (this.#state === "exited") return;
    this.#status = exitStatus(waitStatus);
    if (this.#state === "starting") {
      this.#early = tell;
      return;
    }
    this.#state = "exited";
    tell();
  }

  /** Tells an exit that was held back; called after start() has answered. */
  settle(): void {
    const tell = this.#early;
    if (tell === undefined) return;
    this.#early = undefined;
    this.#state = "exited";
    tell();
  }

  finished(): SandboxError {
    return new SandboxError("ERR_PROCESS_FINISHED", `${this.name}: the process has already finished`);
  }
}
