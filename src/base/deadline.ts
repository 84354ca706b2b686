/** Deadlines and aborts for waits. Portable except that it uses the global timers. */
import { SandboxError } from "./errors.ts";

/**
 * Settles as `promise` does, unless `signal` aborts or `limitMs` pass first.
 * @param what names the wait in the error: "waiting for the agent's hello".
 * @throws SandboxError ERR_DEADLINE or ERR_CANCELED (or the signal's own SandboxError reason).
 */
export function withDeadline<T>(
  promise: Promise<T>,
  limitMs: number,
  what: string,
  signal?: AbortSignal,
): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    const release = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", canceled);
    };
    const canceled = () => {
      release();
      const reason: unknown = signal?.reason;
      reject(
        reason instanceof SandboxError
          ? reason
          : new SandboxError("ERR_CANCELED", `${what} was canceled`, { cause: reason }),
      );
    };
    let timer: ReturnType<typeof setTimeout> | undefined;
    if (signal?.aborted === true) {
      promise.catch(() => undefined);
      canceled();
      return;
    }
    timer = setTimeout(() => {
      release();
      reject(new SandboxError("ERR_DEADLINE", `${what} took longer than ${limitMs} ms`));
    }, limitMs);
    signal?.addEventListener("abort", canceled, { once: true });
    promise.then(resolve, reject).finally(release);
  });
}
