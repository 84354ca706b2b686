/** Opening a broken output stream again: how long, and how often. */
import { setTimeout as delay } from "node:timers/promises";
import { withDeadline } from "../../base/deadline.ts";
import { type ErrorCode, SandboxError } from "../../base/errors.ts";
import { timeoutMs } from "../../base/timeouts.ts";

/** Milliseconds before the first attempt; each further pause is twice as long. */
const FIRST_PAUSE_MS = 20;

/** What another attempt may mend; anything else is the guest's last word, or ours. */
const PASSING: readonly ErrorCode[] = ["ERR_UNAVAILABLE", "ERR_DEADLINE"];

/**
 * The attempts to open one output's stream again. They end by one deadline, timeoutMs("stdioRedial") from the break on,
 * which begins anew after a stream that brought something or stood as long as that.
 */
export class Redial {
  readonly #signal: AbortSignal;
  #until: number | undefined;
  #pauseMs = FIRST_PAUSE_MS;
  #openedAt = 0;

  /** @param signal ends all attempts. */
  constructor(signal: AbortSignal) {
    this.#signal = signal;
  }

  /** The stream has brought something. */
  moved(): void {
    this.#until = undefined;
  }

  /**
   * Opens until it succeeds. A stream that comes too late is reset.
   * @throws `broken` or the error of the last attempt.
   */
  async open<T extends { reset(reason: string): void }>(broken: unknown, dial: () => Promise<T>): Promise<T> {
    const limitMs = timeoutMs("stdioRedial");
    const begun = performance.now();
    if (this.#until === undefined || begun - this.#openedAt > limitMs) {
      this.#until = begun + limitMs;
      this.#pauseMs = FIRST_PAUSE_MS;
    }
    for (let failure = broken; ; ) {
      await delay(this.#pauseMs, undefined, { signal: this.#signal }).catch(() => undefined);
      this.#pauseMs *= 2;
      const leftMs = this.#until - performance.now();
      if (leftMs <= 0 || this.#signal.aborted) throw failure;
      const dialled = dial();
      try {
        const stream = await withDeadline(dialled, leftMs, "dialling a stream again", this.#signal);
        this.#openedAt = performance.now();
        return stream;
      } catch (error) {
        dialled.then((stream) => stream.reset("it came too late")).catch(() => undefined);
        if (!(error instanceof SandboxError) || !PASSING.includes(error.code)) throw error;
        failure = error;
      }
    }
  }
}
