import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { IdleEnd } from "../../../src/shim/idle-end.ts";
import type { CallContext, MethodHandler } from "../../../src/ttrpc/service.ts";

const LIMIT_MS = 1000;
const context = { signal: new AbortController().signal } as CallContext;
const gone = { signal: AbortSignal.abort() } as CallContext;

test("IdleEnd expires after each limit without a call, never during one, and counts anew after it", async () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  try {
    let expired = 0;
    const idle = new IdleEnd(LIMIT_MS, () => {
      expired += 1;
    });
    let finish: () => void = () => undefined;
    const handler: MethodHandler = () =>
      new Promise((resolve) => {
        finish = () => resolve(new Uint8Array());
      });
    const call = idle.watched({ name: "s", methods: new Map([["M", handler]]) }).methods.get("M");
    assert.ok(call);
    mock.timers.tick(LIMIT_MS - 1);
    const first = call(new Uint8Array(), context);
    mock.timers.tick(10 * LIMIT_MS);
    assert.equal(expired, 0, "a call is running");
    finish();
    await first;
    mock.timers.tick(LIMIT_MS - 1);
    assert.equal(expired, 0);
    mock.timers.tick(1);
    assert.equal(expired, 1);
    mock.timers.tick(LIMIT_MS);
    assert.equal(expired, 2, "not for the last time");
  } finally {
    mock.timers.reset();
  }
});

test("IdleEnd waits for the last of several calls, also for one that fails", async () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  try {
    let expired = 0;
    const idle = new IdleEnd(LIMIT_MS, () => {
      expired += 1;
    });
    const endings: ((error?: Error) => void)[] = [];
    const handler: MethodHandler = () =>
      new Promise((resolve, reject) => {
        endings.push((error) => (error === undefined ? resolve(new Uint8Array()) : reject(error)));
      });
    const call = idle.watched({ name: "s", methods: new Map([["M", handler]]) }).methods.get("M");
    assert.ok(call);
    const calls = [call(new Uint8Array(), context), call(new Uint8Array(), context)];
    endings[0]?.(new Error("no"));
    await assert.rejects(calls[0] ?? Promise.resolve(), /no/);
    mock.timers.tick(2 * LIMIT_MS);
    assert.equal(expired, 0);
    endings[1]?.();
    await calls[1];
    mock.timers.tick(LIMIT_MS);
    assert.equal(expired, 1);
  } finally {
    mock.timers.reset();
  }
});

test("IdleEnd expires at once when the last call ends without its caller", async () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  try {
    let expired = 0;
    const idle = new IdleEnd(LIMIT_MS, () => {
      expired += 1;
    });
    let finish: () => void = () => undefined;
    const methods = new Map<string, MethodHandler>([
      ["Quick", () => Promise.resolve(new Uint8Array())],
      [
        "Slow",
        () =>
          new Promise((resolve) => {
            finish = () => resolve(new Uint8Array());
          }),
      ],
    ]);
    const watched = idle.watched({ name: "s", methods }).methods;
    const slow = watched.get("Slow")?.(new Uint8Array(), context);
    await watched.get("Quick")?.(new Uint8Array(), gone);
    assert.equal(expired, 0, "another call is running");
    finish();
    await slow;
    assert.equal(expired, 0, "its caller is there");
    await watched.get("Quick")?.(new Uint8Array(), gone);
    assert.equal(expired, 1);
  } finally {
    mock.timers.reset();
  }
});

test("IdleEnd expires at once when somebody hangs up while no call runs", async () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  try {
    const expired = mock.fn();
    const idle = new IdleEnd(LIMIT_MS, expired);
    let finish: (answer: Uint8Array) => void = () => undefined;
    const answer = new Promise<Uint8Array>((resolve) => {
      finish = resolve;
    });
    const { methods } = idle.watched({ name: "s", methods: new Map([["M", () => answer]]) });
    const running = methods.get("M")?.(new Uint8Array(), context);
    idle.hungUp();
    assert.equal(expired.mock.callCount(), 0, "a call of somebody else is running");
    finish(new Uint8Array());
    await running;
    assert.equal(expired.mock.callCount(), 0, "its caller is there");
    idle.hungUp();
    assert.equal(expired.mock.callCount(), 1);
  } finally {
    mock.timers.reset();
  }
});
