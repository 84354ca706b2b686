import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { causeOf } from "../../../src/base/cause.ts";

test("the cause is told where it is seen soon after the loss, the loss where it is not", async () => {
  assert.equal(await causeOf("connection lost", sleep(5, "QEMU was killed")), "QEMU was killed");
  assert.equal(await causeOf("connection lost", new Promise<string>(() => undefined)), "connection lost");
});
