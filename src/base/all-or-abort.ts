/** Steps that run at the same time and stand or fall together. */

/**
 * Runs `steps` at once and waits for every one of them, also after a failure, so that nothing acquires behind the
 * caller's back. The first failure aborts the signal that the others were given.
 * @throws the first failure.
 */
export async function allOrAbort<T extends readonly unknown[]>(
  signal: AbortSignal,
  steps: { readonly [K in keyof T]: (signal: AbortSignal) => Promise<T[K]> },
): Promise<T> {
  const controller = new AbortController();
  const forward = () => controller.abort(signal.reason);
  if (signal.aborted) forward();
  signal.addEventListener("abort", forward, { once: true });
  let failed = false;
  let failure: unknown;
  try {
    const results = await Promise.all(
      steps.map((step) =>
        Promise.resolve()
          .then(() => step(controller.signal))
          .catch((error: unknown) => {
            if (!failed) {
              failed = true;
              failure = error;
              controller.abort(error);
            }
            return undefined;
          }),
      ),
    );
    if (failed) throw failure;
    return results as unknown as T;
  } finally {
    signal.removeEventListener("abort", forward);
  }
}
