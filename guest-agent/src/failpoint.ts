/**
 * The agent's fail point, for tests of what the host does when the guest fails: `caisson.failpoint=ACTION:NAME` on the
 * kernel command line. NAME is `hello`, a call of the Agent service (`createContainer`), `stdio` (a stream is opened)
 * or `console` (a console is, which a test does at a moment of its choice). `exit` ends the agent there, which for PID 1
 * is a kernel panic, and `hang` stops it for ever.
 */
import * as sys from "sys";

export type FailPoint = (name: string) => void;

/** Reads the value of the key; anything else than the above arms nothing. */
export function armFailPoint(value: string): FailPoint | undefined {
  const [action = "", armed = ""] = value.split(":");
  if (armed === "" || (action !== "exit" && action !== "hang")) return undefined;
  return (name) => {
    if (name !== armed) return;
    if (action === "exit") sys.exit(1);
    const nothing = sys.epollCreate();
    for (;;) sys.epollWait(nothing, new Uint32Array(2), -1);
  };
}

/** The same handlers, each with the fail point of its name ahead. */
export function withFailPoint<T extends object>(handlers: T, failPoint: FailPoint | undefined): T {
  if (failPoint === undefined) return handlers;
  const guarded = Object.entries(handlers).map(([name, handler]) => {
    const guard = (...args: unknown[]): unknown => {
      failPoint(name);
      // One of ServiceHandlers, whose arguments are passed on as they came.
      return (handler as (...args: unknown[]) => unknown).apply(handlers, args);
    };
    return [name, guard];
  });
  return Object.fromEntries(guarded) as T;
}
