/** Reports promises that were rejected and that nobody handles; nothing ends because of one. */
import * as sys from "sys";

/** @param report told of the reason once all jobs of the turn have run, so that late handlers count. */
export function trackRejections(report: (reason: unknown) => void): void {
  const unhandled = new Map<Promise<unknown>, unknown>();
  let scheduled = false;
  const flush = () => {
    scheduled = false;
    const reasons = [...unhandled.values()];
    unhandled.clear();
    for (const reason of reasons) report(reason);
  };
  sys.setRejectionHandler((promise, reason, handled) => {
    if (handled) {
      unhandled.delete(promise);
      return;
    }
    unhandled.set(promise, reason);
    if (scheduled) return;
    scheduled = true;
    setTimeout(flush, 0);
  });
}
