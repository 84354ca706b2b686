import assert from "node:assert/strict";
import { test } from "node:test";
import { SandboxError } from "../../../src/base/errors.ts";
import { reserveCid } from "../../../src/vsock/vhost-transport.ts";

test("reserveCid() goes on to the next CID until one is free", () => {
  const asked: number[] = [];
  const cid = reserveCid((candidate) => {
    asked.push(candidate);
    return candidate === 102;
  }, 100);
  assert.equal(cid, 102);
  assert.deepEqual(asked, [100, 101, 102]);
});

test("reserveCid() wraps past the reserved values", () => {
  const asked: number[] = [];
  reserveCid((candidate) => asked.push(candidate) === 3, 0xffff_fffd);
  assert.deepEqual(asked, [0xffff_fffd, 0xffff_fffe, 3]);
});

test("reserveCid() starts at random between 3 and 2^32-2", () => {
  const seen = new Set<number>();
  for (let i = 0; i < 200; i++) {
    reserveCid((cid) => {
      assert.ok(Number.isInteger(cid) && cid >= 3 && cid <= 0xffff_fffe);
      seen.add(cid);
      return true;
    });
  }
  assert.ok(seen.size > 190);
  assert.ok([...seen].some((cid) => cid > 0x8000_0000));
});

test("reserveCid() gives up after a bounded number of tries and passes failures on", () => {
  assert.throws(
    () => reserveCid(() => false, 5),
    (error: unknown) => error instanceof SandboxError && error.code === "ERR_EXHAUSTED",
  );
  assert.throws(
    () =>
      reserveCid(() => {
        throw new Error("EFAULT");
      }),
    /EFAULT/,
  );
});
