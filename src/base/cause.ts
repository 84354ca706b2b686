/** Why something was lost, where the loss may be seen before its cause: a process that ends closes its connections first. */
import { timeoutMs } from "./timeouts.ts";

/** What `cause` resolves with, or `loss` where no cause is seen in time. Rejects as `cause` does. */
export async function causeOf<L, C>(loss: L, cause: Promise<C>): Promise<L | C> {
  let timer: NodeJS.Timeout | undefined;
  const waited = new Promise<L>((resolve) => {
    timer = setTimeout(resolve, timeoutMs("cause"), loss);
  });
  try {
    return await Promise.race([cause, waited]);
  } finally {
    clearTimeout(timer);
  }
}
