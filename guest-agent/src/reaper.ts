/** Reaps every child of the agent, orphans of containers included, and tells who is interested. */
import * as sys from "sys";
import type { EventLoop } from "./event-loop.ts";
import { SIGCHLD, WNOHANG } from "./linux.ts";

export class Reaper {
  readonly #expected = new Map<number, (raw: number) => void>();
  readonly #onOther: (pid: number, raw: number) => void;

  /** @param onOther told of each child that nobody expects by its pid. */
  constructor(loop: EventLoop, onOther: (pid: number, raw: number) => void) {
    this.#onOther = onOther;
    loop.onSignals([SIGCHLD], () => this.reap());
  }

  /** Resolves to the raw status of the child. Call it in the turn in which the child was forked. */
  expect(pid: number): Promise<number> {
    return new Promise((resolve) => this.#expected.set(pid, resolve));
  }

  /** Takes all children that have ended. SIGCHLD is merged, so one signal may stand for many. */
  reap(): void {
    for (;;) {
      const [pid, raw] = sys.waitpid(-1, WNOHANG);
      if (pid <= 0) return;
      const expected = this.#expected.get(pid);
      this.#expected.delete(pid);
      if (expected === undefined) this.#onOther(pid, raw);
      else expected(raw);
    }
  }
}
