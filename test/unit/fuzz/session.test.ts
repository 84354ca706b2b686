/** The fuzzer sees what it is there to see. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { SandboxError } from "../../../src/base/errors.ts";
import { runSession } from "../../fuzz/session.ts";
import type { Target } from "../../fuzz/target.ts";

/** A session over the corpus of addresses, with a decoder of the test's own. */
const session = (run: Target["run"], seed = 1, inputs?: Uint8Array[]) =>
  runSession({
    target: { name: "ip-text", about: "", format: "text", run },
    seed,
    seconds: 1,
    slowMs: 100,
    begin: (input) => inputs?.push(Uint8Array.from(input)),
  });

const reasonOf = async (run: Target["run"]): Promise<string> => {
  const result = await session(run);
  return "reason" in result ? result.reason : "no failure";
};

/** For every input behind the six of the corpus. */
const whenChanged = (act: () => string | Promise<string>): Target["run"] => {
  let seen = 0;
  return () => {
    seen += 1;
    return seen > 6 ? act() : "ok";
  };
};

test("a value and a refusal are no failure", async () => {
  assert.equal(await reasonOf(() => "ok"), "no failure");
  const refuse = () => {
    throw new SandboxError("ERR_PROTOCOL", "no");
  };
  assert.equal(await reasonOf(whenChanged(refuse)), "no failure");
});

test("another error is a failure, and so is a broken invariant", async () => {
  const failure = whenChanged(() => {
    throw new TypeError("undefined is not a function");
  });
  assert.match(await reasonOf(failure), /TypeError: undefined is not a function/);
  const broken = whenChanged(() => {
    throw new SandboxError("ERR_INTERNAL", "cannot be");
  });
  assert.match(await reasonOf(broken), /cannot be/);
});

test("a real message that is refused is a failure", async () => {
  const refuse = () => {
    throw new SandboxError("ERR_PROTOCOL", "no");
  };
  assert.match(await reasonOf(refuse), /a real message was refused/);
});

test("what takes long, however often, is a failure", async () => {
  const spin = whenChanged(() => {
    const begun = process.cpuUsage();
    while (process.cpuUsage(begun).user < 150_000);
    return "slow";
  });
  assert.match(await reasonOf(spin), /ms of processor time/);
});

test("what allocates much for a small input is a failure", async () => {
  const kept: Uint8Array[] = [];
  const grow = whenChanged(() => {
    kept.push(new Uint8Array(200 << 20));
    return "large";
  });
  assert.match(await reasonOf(grow), /MiB were allocated/);
});

test("the same seed makes the same inputs", async () => {
  const [first, second, other]: Uint8Array[][] = [[], [], []];
  await session(() => "ok", 5, first);
  await session(() => "ok", 5, second);
  await session(() => "ok", 6, other);
  const count = Math.min(first?.length ?? 0, second?.length ?? 0, other?.length ?? 0, 40);
  assert.ok(count > 10);
  assert.deepEqual(first?.slice(0, count), second?.slice(0, count));
  assert.notDeepEqual(first?.slice(0, count), other?.slice(0, count));
});
