/** setTimeout and clearTimeout for portable code, on top of the event loop. */
import type { EventLoop, Timer } from "./event-loop.ts";

/** Defines the two globals. */
export function installTimers(loop: EventLoop): void {
  const target = globalThis as Record<string, unknown>;
  target.setTimeout = (run: () => void, delayMs = 0): Timer => loop.setTimer(delayMs, run);
  target.clearTimeout = (timer?: Timer): void => {
    if (timer !== undefined) loop.clearTimer(timer);
  };
}
