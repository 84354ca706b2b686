/**
 * The agent's event loop over epoll: descriptor readiness, timers, signals. One turn waits once and dispatches what is
 * due; promise jobs run to the end after each callback. A callback that throws is reported and nothing else is
 * affected.
 */
import * as sys from "sys";
import { CLOCK_MONOTONIC, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLLIN } from "./linux.ts";

/** Interest in one descriptor's readiness. */
export interface Watch {
  /** Changes the EPOLL* bits waited for; 0 pauses, also for errors and hang-ups. */
  set(events: number): void;
  /** Ends the interest; the descriptor stays open. Call it before closing the descriptor. Idempotent. */
  close(): void;
}

export interface Timer {
  readonly dueMs: number;
  readonly run: () => void;
  active: boolean;
}

/** Events taken per wait; what is left over is reported by the next one. */
const BATCH = 64;

export class EventLoop {
  readonly #epoll = sys.epollCreate();
  readonly #ready = new Uint32Array(2 * BATCH);
  readonly #watches = new Map<number, { readonly callback: (events: number) => void }>();
  #nextToken = 1;
  /** Sorted by due time; there are few timers. */
  readonly #timers: Timer[] = [];
  readonly #report: (error: unknown) => void;

  /** @param report told of everything that a callback throws. */
  constructor(report: (error: unknown) => void) {
    this.#report = report;
  }

  /** Milliseconds of a clock that never jumps. */
  now(): number {
    return sys.clockUs(CLOCK_MONOTONIC) / 1000;
  }

  /** Calls back with the EPOLL* bits that are ready (level-triggered). Errors and hang-ups are always reported. */
  watch(fd: number, events: number, callback: (events: number) => void): Watch {
    const token = this.#nextToken++;
    let current = 0;
    this.#watches.set(token, { callback });
    const set = (wanted: number) => {
      if (wanted === current || !this.#watches.has(token)) return;
      const operation = current === 0 ? EPOLL_CTL_ADD : wanted === 0 ? EPOLL_CTL_DEL : EPOLL_CTL_MOD;
      sys.epollCtl(this.#epoll, operation, fd, wanted, token);
      current = wanted;
    };
    set(events);
    return {
      set,
      close: () => {
        set(0);
        this.#watches.delete(token);
      },
    };
  }

  setTimer(delayMs: number, run: () => void): Timer {
    const timer: Timer = { dueMs: this.now() + Math.max(0, delayMs), run, active: true };
    const timers = this.#timers;
    let at = timers.length;
    while (at > 0 && (timers[at - 1]?.dueMs ?? 0) > timer.dueMs) at--;
    if (at === timers.length) timers.push(timer);
    else timers.splice(at, 0, timer);
    return timer;
  }

  clearTimer(timer: Timer): void {
    if (!timer.active) return;
    timer.active = false;
    const at = this.#timers.lastIndexOf(timer);
    if (at === this.#timers.length - 1) this.#timers.pop();
    else if (at >= 0) this.#timers.splice(at, 1);
  }

  /** Blocks the signals and calls `callback(signal)` for each that arrives (several may be merged into one). */
  onSignals(signals: readonly number[], callback: (signal: number) => void): Watch {
    const fd = sys.signalfd(signals);
    return this.watch(fd, EPOLLIN, () => {
      for (let signal = sys.readSignal(fd); signal > 0; signal = sys.readSignal(fd)) callback(signal);
    });
  }

  /** Waits for the next event or timer and dispatches everything that is due. */
  turn(): void {
    const count = sys.epollWait(this.#epoll, this.#ready, this.#timeoutMs());
    for (let i = 0; i < count; i++) {
      const events = this.#ready[2 * i] ?? 0;
      // A callback before this one may have closed the watch.
      const watch = this.#watches.get(this.#ready[2 * i + 1] ?? 0);
      if (watch !== undefined) this.#call(watch.callback, events);
    }
    this.#runTimers();
  }

  #timeoutMs(): number {
    const next = this.#timers[0];
    return next === undefined ? -1 : Math.max(0, Math.ceil(next.dueMs - this.now()));
  }

  #runTimers(): void {
    if (this.#timers.length === 0) return;
    const now = this.now();
    if ((this.#timers[0]?.dueMs ?? 0) > now) return;
    const due = this.#timers.findIndex((timer) => timer.dueMs > now);
    for (const timer of this.#timers.splice(0, due < 0 ? this.#timers.length : due)) {
      if (!timer.active) continue;
      timer.active = false;
      this.#call(timer.run, 0);
    }
  }

  #call(callback: (events: number) => void, events: number): void {
    try {
      callback(events);
    } catch (error) {
      this.#report(error);
    }
    sys.runJobs();
  }
}
