import assert from "node:assert/strict";
import { test } from "node:test";
import { dialAgain } from "../../../src/agent/dial-again.ts";
import { SandboxError } from "../../../src/base/errors.ts";

const refusal = () => new SandboxError("ERR_UNAVAILABLE", "refused");

test("dialAgain repeats what was refused until it is let in", async () => {
  let attempts = 0;
  const dial = async () => {
    attempts += 1;
    if (attempts < 3) throw refusal();
    return "connected";
  };
  assert.equal(await dialAgain(dial, new AbortController().signal), "connected");
  assert.equal(attempts, 3);
});

test("dialAgain ends with the refusal when its signal aborts, also in a pause", async () => {
  const controller = new AbortController();
  let attempts = 0;
  const dial = () => {
    attempts += 1;
    setImmediate(() => controller.abort());
    return Promise.reject(refusal());
  };
  await assert.rejects(dialAgain(dial, controller.signal), /refused/);
  assert.equal(attempts, 1);
});

test("dialAgain says why it was stopped, unless that was only the deadline", async () => {
  for (const [code, expected] of [
    ["ERR_CANCELED", /because/],
    ["ERR_DEADLINE", /refused/],
  ] as const) {
    const controller = new AbortController();
    const dial = () => {
      controller.abort(new SandboxError(code, "because"));
      return Promise.reject(refusal());
    };
    await assert.rejects(dialAgain(dial, controller.signal), expected);
  }
});

test("dialAgain does not repeat another failure", async () => {
  let attempts = 0;
  const dial = () => {
    attempts += 1;
    return Promise.reject(new SandboxError("ERR_DEADLINE", "late"));
  };
  await assert.rejects(dialAgain(dial, new AbortController().signal), /late/);
  assert.equal(attempts, 1);
});
