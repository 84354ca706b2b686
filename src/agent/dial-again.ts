/**
 * Repeats a connection attempt that was refused. A guest refuses when it has no room for one more waiting connection, and
 * the user-space backend drops attempts in a rush, without saying which of both it was.
 */
import { setTimeout as delay } from "node:timers/promises";
import { SandboxError } from "../base/errors.ts";

/** Milliseconds before the second attempt; each further pause is twice as long. */
const FIRST_PAUSE_MS = 20;

/**
 * Dials until it succeeds, fails with another error than ERR_UNAVAILABLE, or `signal` aborts.
 * @throws the last error; the signal's reason where that is more than a deadline.
 */
export async function dialAgain<T>(dial: () => Promise<T>, signal: AbortSignal): Promise<T> {
  for (let pauseMs = FIRST_PAUSE_MS; ; pauseMs *= 2) {
    try {
      return await dial();
    } catch (error) {
      if (!(error instanceof SandboxError) || error.code !== "ERR_UNAVAILABLE") throw error;
      await delay(pauseMs, undefined, { signal }).catch(() => undefined);
      if (!signal.aborted) continue;
      const reason: unknown = signal.reason;
      throw reason instanceof SandboxError && reason.code !== "ERR_DEADLINE" ? reason : error;
    }
  }
}
