/** Commands of `shim` that go on until they are ended. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import type { OperatorSuite } from "../../harness/operator.ts";

/** Milliseconds for one line to come. */
const LIMIT_MS = 180_000;

/** A running `shim` whose lines are looked at as they come. The caller disposes of it. */
export function followShim({ host, command }: OperatorSuite, args: readonly string[]) {
  const [file = "", ...rest] = command(args);
  const child = spawn(file, rest, { stdio: ["ignore", "pipe", "inherit"] });
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]();
  const closed = new Promise<void>((resolve) => child.once("close", () => resolve()));
  return {
    async line(what: RegExp): Promise<string> {
      // The child is nsenter, whose end would leave the program's output open.
      const timer = setTimeout(() => child.stdout.destroy(), LIMIT_MS);
      try {
        for (;;) {
          const { value, done } = await lines.next();
          assert.notEqual(done, true, `no line with ${what}`);
          if (what.test(value as string)) return value as string;
        }
      } finally {
        clearTimeout(timer);
      }
    },
    /** Ends by itself. */
    closed,
    async [Symbol.asyncDispose]() {
      // nsenter's child is the program; both end with their reader.
      for (const { pid, commandLine } of host().world.processes())
        if (commandLine.endsWith(`shim ${args.join(" ")}`)) process.kill(pid, "SIGTERM");
      await closed;
    },
  };
}
