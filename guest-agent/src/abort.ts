/** AbortController and AbortSignal as far as portable code uses them (DOM standard, section 3). */

type AbortListener = (event: { readonly type: "abort"; readonly target: AbortSignal }) => void;
type ListenerObject = { handleEvent: AbortListener };

/** The default reason of abort() and of timeouts. */
export class AbortError extends Error {
  override readonly name: string = "AbortError";
}

export class AbortSignal {
  #aborted = false;
  #reason: unknown;
  #listeners: { readonly call: AbortListener | ListenerObject; readonly once: boolean }[] = [];
  onabort: AbortListener | null = null;

  get aborted(): boolean {
    return this.#aborted;
  }

  get reason(): unknown {
    return this.#reason;
  }

  throwIfAborted(): void {
    if (this.#aborted) throw this.#reason;
  }

  addEventListener(_type: "abort", call: AbortListener | ListenerObject, options?: { once?: boolean }): void {
    if (this.#listeners.some((listener) => listener.call === call)) return;
    this.#listeners.push({ call, once: options?.once ?? false });
  }

  removeEventListener(_type: "abort", call: AbortListener | ListenerObject): void {
    this.#listeners = this.#listeners.filter((listener) => listener.call !== call);
  }

  /** Used by AbortController only. */
  static abortNow(signal: AbortSignal, reason: unknown): void {
    if (signal.#aborted) return;
    signal.#aborted = true;
    signal.#reason = reason;
    const listeners = signal.#listeners;
    signal.#listeners = [];
    const event = { type: "abort", target: signal } as const;
    signal.onabort?.(event);
    for (const { call } of listeners) {
      if (typeof call === "function") call(event);
      else call.handleEvent(event);
    }
  }

  /** A signal that is aborted already. */
  static abort(reason: unknown = new AbortError("the operation was aborted")): AbortSignal {
    const signal = new AbortSignal();
    AbortSignal.abortNow(signal, reason);
    return signal;
  }

  /** Aborts when the first of `signals` does. */
  static any(signals: Iterable<AbortSignal>): AbortSignal {
    const result = new AbortSignal();
    for (const signal of signals) {
      if (signal.aborted) AbortSignal.abortNow(result, signal.reason);
      else {
        signal.addEventListener("abort", () => AbortSignal.abortNow(result, signal.reason), { once: true });
      }
    }
    return result;
  }

  /** Aborts after `delayMs`. */
  static timeout(delayMs: number): AbortSignal {
    const signal = new AbortSignal();
    setTimeout(() => AbortSignal.abortNow(signal, new AbortError("the operation timed out")), delayMs);
    return signal;
  }
}

export class AbortController {
  readonly signal = new AbortSignal();
  abort(reason: unknown = new AbortError("the operation was aborted")): void {
    AbortSignal.abortNow(this.signal, reason);
  }
}
