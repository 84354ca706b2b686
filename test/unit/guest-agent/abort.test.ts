/** The agent's AbortSignal against Node's: the same script on both. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as own from "../../../guest-agent/src/abort.ts";

for (const [name, implementation] of [
  ["the agent's", own],
  ["Node's", globalThis],
] as const) {
  const { AbortController: Controller, AbortSignal: Signal } = implementation as typeof globalThis;

  test(`${name} signal calls each listener once, with the reason set`, () => {
    const controller = new Controller();
    const seen: unknown[] = [];
    const listener = () => seen.push(controller.signal.reason);
    controller.signal.addEventListener("abort", listener);
    controller.signal.addEventListener("abort", listener);
    controller.signal.addEventListener("abort", () => seen.push("second"), { once: true });
    controller.abort("why");
    controller.abort("again");
    assert.deepEqual(seen, ["why", "second"]);
    assert.equal(controller.signal.aborted, true);
    assert.throws(() => controller.signal.throwIfAborted());
  });

  test(`${name} signal forgets removed listeners`, () => {
    const controller = new Controller();
    let calls = 0;
    const listener = () => calls++;
    controller.signal.addEventListener("abort", listener);
    controller.signal.removeEventListener("abort", listener);
    controller.abort();
    assert.equal(calls, 0);
    assert.equal((controller.signal.reason as Error).name, "AbortError");
  });

  test(`${name} any() follows the first signal, also one that is aborted already`, () => {
    const [first, second] = [new Controller(), new Controller()];
    const any = Signal.any([first.signal, second.signal]);
    second.abort("second");
    first.abort("first");
    assert.equal(any.reason, "second");
    assert.equal(Signal.any([new Controller().signal, Signal.abort("before")]).reason, "before");
  });

  test(`${name} timeout() aborts by itself`, async () => {
    const signal = Signal.timeout(5);
    await new Promise((resolve) => setTimeout(resolve, 30));
    assert.equal(signal.aborted, true);
  });
}
