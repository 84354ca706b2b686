/**
 * One process of a container: its init or an exec. Owns the state, the exit, the host's stdio; asks the guest through
 * `GuestCalls`. The exit is settled from the guest's event (or from the loss of the guest) and from nothing else.
 */
import { SandboxError } from "../base/errors.ts";
import { failPoint } from "../base/failpoint.ts";
import type { Log } from "../base/log.ts";
import { traced } from "../base/trace.ts";
import { nextProcessState, type ProcessEvent, type ProcessState } from "./process-state.ts";
import { type HostStdio, openHostStdio, type StdioSpec } from "./stdio/open.ts";
import { type DialStream, type OutputBytes, ProcessIo } from "./stdio/process-io.ts";

export interface ProcessExit {
  /** Exit code, or 128 + signal. */
  readonly status: number;
  readonly exitedAt: Date;
}

/** What a process needs of the guest; every call is bounded by the implementation. */
export interface ProcessGuest {
  start(): Promise<{ pid: number }>;
  signal(signal: number, all: boolean): Promise<void>;
  resize(columns: number, rows: number): Promise<void>;
  /** Forgets the process in the guest. Must succeed when the guest is gone. */
  remove(): Promise<void>;
  readonly dial: DialStream;
}

export interface ProcessInit {
  readonly containerId: string;
  /** Empty for the container's init process. */
  readonly execId: string;
  readonly stdio: StdioSpec;
  /** containerd's namespace; logging binaries are told. */
  readonly namespace: string;
  readonly log: Log;
}

/** An exec that was never started: no exit, as runc has it. */
const neverRan: ProcessExit = { status: 0, exitedAt: new Date(0) };
/** A created container that goes has its waiting init process killed: 128 + SIGKILL. */
const killedNow = (): ProcessExit => ({ status: 137, exitedAt: new Date() });

export class ContainerProcess {
  readonly containerId: string;
  readonly execId: string;
  readonly stdio: StdioSpec;
  readonly #log: Log;
  readonly #openHost: () => Promise<HostStdio>;
  #io: ProcessIo | undefined;
  #stdinClosed = false;
  #guest: ProcessGuest | undefined;
  #state: ProcessState = "created";
  #pid = 0;
  /** What the guest told, before it is told on. */
  #ended: ProcessExit | undefined;
  #exit: ProcessExit | undefined;
  #settleExit: (exit: ProcessExit) => void = () => undefined;
  readonly #exited = new Promise<ProcessExit>((resolve) => {
    this.#settleExit = resolve;
  });
  #announce: () => void = () => undefined;
  /** Resolves when the start was announced (or can no longer be): an exit must not be published before. */
  readonly startAnnounced = new Promise<void>((resolve) => {
    this.#announce = resolve;
  });

  /**
   * Opens the host's stdio, that of an exec only when it starts: a client whose request to start never comes (containerd
   * was killed) sees the end of its pipes only where nobody holds them.
   * @throws ERR_INVALID_ARGUMENT naming the path that cannot be opened.
   */
  static async open(init: ProcessInit): Promise<ContainerProcess> {
    const { containerId, execId, namespace, log } = init;
    const owner = { id: execId === "" ? containerId : execId, namespace, log };
    const process = new ContainerProcess(init, () => openHostStdio(init.stdio, owner));
    if (execId === "") await process.#openIo();
    return process;
  }

  private constructor(init: ProcessInit, openHost: () => Promise<HostStdio>) {
    this.containerId = init.containerId;
    this.execId = init.execId;
    this.stdio = init.stdio;
    this.#log = init.log;
    this.#openHost = openHost;
  }

  async #openIo(): Promise<ProcessIo> {
    if (this.#io !== undefined) return this.#io;
    const io = new ProcessIo(await this.#openHost(), this.#log);
    this.#io = io;
    if (this.#stdinClosed) io.closeStdin();
    // It ended while the pipes were opened.
    if (this.#exit !== undefined) io.close();
    return io;
  }

  get state(): ProcessState {
    return this.#state;
  }
  /** Pid in the guest; 0 before it runs. */
  get pid(): number {
    return this.#pid;
  }
  /** Whether the process was ever exec'ed. */
  get ran(): boolean {
    return this.#pid !== 0;
  }
  get exit(): ProcessExit | undefined {
    return this.#exit;
  }

  /** Whether it has ended, told on or not. */
  get hasEnded(): boolean {
    return this.#exit !== undefined || this.#ended !== undefined;
  }

  /** Binds the process to the guest that knows it. */
  bind(guest: ProcessGuest): void {
    this.#guest = guest;
  }

  /** Starts it. Valid in `created`. @throws the guest's reason when it cannot be exec'ed; it is then `exited`. */
  async start(): Promise<number> {
    this.#step("start");
    const guest = this.#bound();
    try {
      const io = await this.#openIo();
      await traced("stdio attach", () => io.attach(guest.dial));
      failPoint("start.attached");
      const { pid } = await guest.start();
      failPoint("start.started");
      this.#pid = pid;
      this.#step("started");
      return pid;
    } catch (error) {
      this.settle({ status: 255, exitedAt: new Date() });
      this.#io?.close();
      this.announced();
      throw error;
    }
  }

  /** To be called once TaskStart or TaskExecStarted has been handed to the event publisher. */
  announced(): void {
    this.#announce();
  }

  /**
   * Takes the guest's first word for the exit: records it when the readers have what the process wrote before it, which has a
   * limit. A client may close its ends when it hears of the exit (containerd's own before 1.6.22 and 1.7.3 does), and
   * what it has not read by then is lost.
   */
  async ended(exit: ProcessExit, written: OutputBytes): Promise<void> {
    if (this.hasEnded) return;
    this.#ended = exit;
    await this.#io?.handOver(written);
    this.settle(exit);
  }

  /** Records the exit at once; the first one counts, and what the guest has told before. */
  settle(exit: ProcessExit): void {
    if (this.#exit !== undefined) return;
    this.#exit = this.#ended ?? exit;
    if (this.#state === "created") {
      // Nothing will ever flow: a client that waits for the end of its pipes, when its start is refused, must get it.
      this.#io?.close();
      this.#announce();
    }
    if (nextProcessState(this.#state, "exit") !== undefined) this.#step("exit");
    this.#settleExit(this.#exit);
  }

  /** Resolves with the exit, now or later. */
  wait(): Promise<ProcessExit> {
    return this.#exited;
  }

  /** @throws ERR_PROCESS_FINISHED after its exit, ERR_STATE for an exec before its start. */
  async kill(signal: number, all: boolean): Promise<void> {
    if (this.hasEnded) {
      throw new SandboxError("ERR_PROCESS_FINISHED", `process already finished: ${this.#name()}`);
    }
    if (this.#state === "created" && this.execId !== "") {
      throw new SandboxError("ERR_STATE", `process not created: ${this.#name()}`);
    }
    await this.#bound().signal(signal, all);
  }

  async resize(columns: number, rows: number): Promise<void> {
    // As runc has it: whoever has no terminal has nothing to resize.
    if (!this.stdio.terminal || this.hasEnded) return;
    await this.#bound().resize(columns, rows);
  }

  closeStdin(): void {
    this.#stdinClosed = true;
    this.#io?.closeStdin();
  }

  /**
   * Drains stdio (bounded), forgets the process in the guest. Valid in `exited`, and for what never started.
   * @throws ERR_STATE while it runs; after another failure it may be called again.
   */
  async delete(): Promise<ProcessExit> {
    if (this.#state === "created") this.settle(this.execId === "" ? killedNow() : neverRan);
    this.#step("delete");
    try {
      const drained = await traced("stdio drain", async () => this.#io?.drain());
      if (drained === "unread")
        this.#log.warn({}, `output of ${this.#name()} was not read in time and is cut`);
      if (drained === "unsent")
        this.#log.warn({}, `the guest did not send all output of ${this.#name()} in time: it is cut`);
      this.#io?.close();
      await this.#io?.released();
      failPoint("delete.drained");
      await this.#guest?.remove();
      failPoint("delete.removed");
    } catch (error) {
      this.#step("deleteFailed");
      throw error;
    }
    this.#step("deleted");
    return await this.#exited;
  }

  /** Lets go of all host ends without asking the guest. Idempotent. */
  release(): void {
    this.#io?.close();
    this.announced();
  }

  /** Resolves when nothing of the host ends is left; bounded, to be awaited after `release`. */
  async released(): Promise<void> {
    await this.#io?.released();
  }

  #name(): string {
    return this.execId === ""
      ? `container ${this.containerId}`
      : `exec ${this.execId} of ${this.containerId}`;
  }

  #bound(): ProcessGuest {
    if (this.#guest === undefined)
      throw new SandboxError("ERR_STATE", `${this.#name()} is still being created`);
    return this.#guest;
  }

  #step(event: ProcessEvent): void {
    const next = nextProcessState(this.#state, event);
    if (next === undefined) {
      const verb = event === "delete" || event === "start" ? event : `note "${event}" of`;
      // The words of runc's shim, which its clients know.
      const state = this.#state === "exited" ? "stopped" : this.#state;
      throw new SandboxError("ERR_STATE", `cannot ${verb} a ${state} process: ${this.#name()}`);
    }
    this.#state = next;
  }
}
