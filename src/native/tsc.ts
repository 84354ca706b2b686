/** The frequency of the processor's time stamp counter, which Linux tells nobody. */
import { native } from "./binding.ts";

/** Shorter measurements are less exact than the hundredth that Linux accepts. */
const SHORTEST_NS = 2_000_000;

/**
 * Starts a measurement. What it returns ends it: kHz, or undefined where there is no such counter or the time since was
 * under 2 ms. After 20 ms the result is exact to some parts in 100,000.
 */
export function startTscMeasurement(): () => number | undefined {
  const start = native().tscSample();
  return () => {
    const end = native().tscSample();
    if (start === null || end === null) return undefined;
    const nanoseconds = end.nanoseconds - start.nanoseconds;
    if (nanoseconds < SHORTEST_NS) return undefined;
    return Math.round(((end.ticks - start.ticks) / nanoseconds) * 1_000_000);
  };
}
