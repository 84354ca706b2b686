/**
 * A stack of named undo steps: acquire, register on the next line, release in reverse order.
 *
 * Method names follow the standard's AsyncDisposableStack (absent from Node 20). Beyond it: a step has a name and a
 * time limit, what is offered after disposal is released at once (then the call throws), and all failures are gathered.
 */
import { describeError, SandboxError } from "./errors.ts";
import { timeoutMs } from "./timeouts.ts";

export interface UndoStep {
  readonly name: string;
  readonly run: () => void | Promise<void>;
}

export interface AsyncReleasable {
  [Symbol.asyncDispose](): Promise<void>;
}

/** Called with the name of each step right after it was registered; may throw. For fail points (failpoint.ts). */
let acquired: ((name: string) => void) | undefined;

export function observeAcquires(observer: typeof acquired): void {
  acquired = observer;
}

export class UndoStack implements AsyncReleasable {
  #steps: UndoStep[] = [];
  #disposed = false;
  readonly #limitMs: number;

  /** @param limitMs milliseconds one step may take before it is reported as failed and the next one runs. */
  constructor(limitMs: number = timeoutMs("undoStep")) {
    this.#limitMs = limitMs;
  }

  get disposed(): boolean {
    return this.#disposed;
  }

  /** Names of the registered steps, oldest first. */
  get names(): readonly string[] {
    return this.#steps.map((step) => step.name);
  }

  /** Registers `run` under `name`. After disposal it runs at once and the call throws. */
  defer(name: string, run: () => void | Promise<void>): void {
    if (this.#disposed) {
      void this.#runStep({ name, run }).catch(() => undefined);
      throw new SandboxError("ERR_STATE", `cannot register "${name}": the owner was already torn down`);
    }
    this.#steps.push({ name, run });
    acquired?.(name);
  }

  /** Registers the disposal of `resource` and returns it. */
  use<T extends AsyncReleasable>(name: string, resource: T): T {
    this.defer(name, () => resource[Symbol.asyncDispose]());
    return resource;
  }

  /** Registers `release(value)` and returns the value. */
  adopt<T>(name: string, value: T, release: (value: T) => void | Promise<void>): T {
    this.defer(name, () => release(value));
    return value;
  }

  /** Hands all steps to a new stack; this one is then disposed and empty. */
  move(): UndoStack {
    const moved = new UndoStack(this.#limitMs);
    moved.#steps = this.#steps;
    this.#steps = [];
    this.#disposed = true;
    return moved;
  }

  /** Runs all steps, newest first, each within its limit. @throws AggregateError of what failed, after all ran. */
  async disposeAsync(): Promise<void> {
    this.#disposed = true;
    const failures: unknown[] = [];
    for (let step = this.#steps.pop(); step !== undefined; step = this.#steps.pop()) {
      try {
        await this.#runStep(step);
      } catch (error) {
        failures.push(new SandboxError("ERR_INTERNAL", `undo of "${step.name}" failed`, { cause: error }));
      }
    }
    if (failures.length > 0) {
      throw new AggregateError(failures, failures.map(describeError).join("; "));
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.disposeAsync();
  }

  async #runStep(step: UndoStep): Promise<void> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const limit = new Promise<never>((_, reject) => {
      timer = setTimeout(
        () => reject(new SandboxError("ERR_DEADLINE", `still running after ${this.#limitMs} ms`)),
        this.#limitMs,
      );
    });
    try {
      await Promise.race([Promise.resolve().then(step.run), limit]);
    } finally {
      clearTimeout(timer);
    }
  }
}
