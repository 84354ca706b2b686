/** A container of a sandbox: its processes and what exists on the host for it. */
import { SandboxError } from "../base/errors.ts";
import type { UndoStack } from "../base/undo.ts";
import type { ContainerProcess } from "./container-process.ts";

export interface ContainerInit {
  readonly id: string;
  readonly bundle: string;
  readonly init: ContainerProcess;
  /** Undoes mounts and directories of this container on the host. */
  readonly undo: UndoStack;
  /** False for the pause container of a pod: the guest knows nothing of it. */
  readonly inGuest: boolean;
}

/** Milliseconds between two reports of one container's; a guest may say it any number of times. */
const OUT_OF_MEMORY_PAUSE_MS = 1_000;

export class Container {
  readonly id: string;
  readonly bundle: string;
  readonly init: ContainerProcess;
  readonly inGuest: boolean;
  readonly #undo: UndoStack;
  readonly #execs = new Map<string, ContainerProcess>();
  paused = false;
  #outOfMemoryAt = Number.NEGATIVE_INFINITY;

  constructor(init: ContainerInit) {
    this.id = init.id;
    this.bundle = init.bundle;
    this.init = init.init;
    this.inGuest = init.inGuest;
    this.#undo = init.undo;
  }

  /** Takes a report of the guest's. @returns whether it is to be passed on. */
  noteOutOfMemory(): boolean {
    const now = performance.now();
    if (now - this.#outOfMemoryAt < OUT_OF_MEMORY_PAUSE_MS) return false;
    this.#outOfMemoryAt = now;
    return true;
  }

  /** @throws ERR_NOT_FOUND */
  process(execId: string): ContainerProcess {
    const found = execId === "" ? this.init : this.#execs.get(execId);
    if (found === undefined) {
      throw new SandboxError("ERR_NOT_FOUND", `exec ${execId} of container ${this.id} not found`);
    }
    return found;
  }

  get execs(): readonly ContainerProcess[] {
    return [...this.#execs.values()];
  }

  /** @throws ERR_ALREADY_EXISTS */
  assertExecIdFree(execId: string): void {
    if (this.#execs.has(execId)) {
      throw new SandboxError("ERR_ALREADY_EXISTS", `exec ${execId} of container ${this.id} exists already`);
    }
  }

  addExec(process: ContainerProcess): void {
    this.assertExecIdFree(process.execId);
    this.#execs.set(process.execId, process);
  }

  forgetExec(execId: string): void {
    this.#execs.delete(execId);
  }

  /** Removes what exists on the host for this container. Idempotent. */
  async release(): Promise<void> {
    const processes = [this.init, ...this.#execs.values()];
    for (const process of processes) process.release();
    await Promise.all([this.#undo.disposeAsync(), ...processes.map((process) => process.released())]);
  }
}
