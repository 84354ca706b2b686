/** Ending the guest. */
import * as sys from "sys";
import type { EventLoop } from "./event-loop.ts";
import { EPOLLIN, O_NONBLOCK, RB_POWER_OFF } from "./linux.ts";

/** Milliseconds that writing back may take: a dead virtiofsd would block sync(2) for ever. */
const SYNC_LIMIT_MS = 2_000;

/** Writes back what is dirty, for a bounded time, and powers the machine off. Does not return to the caller's work. */
export function powerOff(loop: EventLoop): void {
  const off = () => sys.reboot(RB_POWER_OFF);
  const [read, write] = sys.pipe2(O_NONBLOCK);
  let child: number;
  try {
    child = sys.fork();
  } catch {
    off();
    return;
  }
  if (child === 0) {
    sys.sync();
    sys.exit(0);
  }
  // The pipe's last writer is the child: its end is seen as a hang-up.
  sys.close(write);
  loop.watch(read, EPOLLIN, off);
  loop.setTimer(SYNC_LIMIT_MS, off);
}
