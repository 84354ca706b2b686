/** Distributes QMP events to listeners, iterators and one-shot waits. */
import { SandboxError } from "../base/errors.ts";
import type { QmpEvent } from "./messages.ts";

/** Events that one slow iterator may be behind; beyond that the oldest are dropped. */
export const EVENT_BACKLOG = 1024;

type Listener = (event: QmpEvent) => void;

export class EventHub {
  readonly #listeners = new Set<Listener>();
  readonly #onEnd = new Set<(error: SandboxError) => void>();
  #ended: SandboxError | undefined;

  emit(event: QmpEvent): void {
    for (const listener of [...this.#listeners]) listener(event);
  }

  /** No event will follow: ends the iterators and fails the waits. */
  end(error: SandboxError): void {
    if (this.#ended !== undefined) return;
    this.#ended = error;
    for (const end of [...this.#onEnd]) end(error);
    this.#onEnd.clear();
    this.#listeners.clear();
  }

  /** Calls `listener` for each event until the returned function is called. */
  on(listener: Listener): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  /** The first event from now on that `matches`. Rejects when `signal` aborts or the connection ends. */
  next(matches: (event: QmpEvent) => boolean, signal: AbortSignal): Promise<QmpEvent> {
    return new Promise((resolve, reject) => {
      const settle = (act: () => void) => {
        off();
        this.#onEnd.delete(end);
        signal.removeEventListener("abort", abort);
        act();
      };
      const off = this.on((event) => {
        if (matches(event)) settle(() => resolve(event));
      });
      const end = (error: SandboxError) => settle(() => reject(error));
      const abort = () => end(new SandboxError("ERR_CANCELED", "waiting for a QMP event was canceled"));
      this.#onEnd.add(end);
      signal.addEventListener("abort", abort, { once: true });
      if (this.#ended !== undefined) end(this.#ended);
      else if (signal.aborted) abort();
    });
  }

  /** All events from now on, until the connection ends. */
  async *iterate(): AsyncGenerator<QmpEvent, void, undefined> {
    const queue: QmpEvent[] = [];
    let wake: () => void = () => undefined;
    const off = this.on((event) => {
      if (queue.length >= EVENT_BACKLOG) queue.shift();
      queue.push(event);
      wake();
    });
    const end = () => wake();
    this.#onEnd.add(end);
    try {
      while (true) {
        const event = queue.shift();
        if (event !== undefined) yield event;
        else if (this.#ended !== undefined) return;
        else
          await new Promise<void>((resolve) => {
            wake = resolve;
          });
      }
    } finally {
      off();
      this.#onEnd.delete(end);
    }
  }
}
