import assert from "node:assert/strict";
import { test } from "node:test";
import { errorCatalogue, SandboxError, Status } from "../../../src/base/errors.ts";
import { MAX_STATUS_MESSAGE, statusOf, TtrpcError } from "../../../src/ttrpc/errors.ts";

test("no code of the catalogue, and nothing thrown, becomes Unknown or Ok", () => {
  const thrown: unknown[] = [new Error("x"), "x", 7, null, undefined, {}];
  for (const code of Object.keys(errorCatalogue) as (keyof typeof errorCatalogue)[])
    thrown.push(new SandboxError(code, "x"));
  for (const remote of [0, 2, 17, -1, 2 ** 31 - 1])
    thrown.push(new TtrpcError({ code: remote, message: "" }, "S/M"));
  for (const error of thrown) {
    const { code, message } = statusOf(error);
    assert.notEqual(code, Status.Ok);
    assert.notEqual(code, Status.Unknown);
    assert.notEqual(message, "");
  }
});

test("a TtrpcError passes the peer's status on, with a code of the same status", () => {
  for (const status of Object.values(Status)) {
    if (status === Status.Ok || status === Status.Unknown) continue;
    const error = new TtrpcError({ code: status, message: "m" }, "S/M");
    assert.equal(error.status, status);
    const same: number = errorCatalogue[error.code];
    const withoutCode: number[] = [
      Status.Aborted,
      Status.OutOfRange,
      Status.DataLoss,
      Status.Unauthenticated,
    ];
    assert.equal(same, withoutCode.includes(status) ? Status.Internal : status);
  }
});

test("a status message is bounded", () => {
  assert.equal(statusOf(new Error("x".repeat(100_000))).message.length, MAX_STATUS_MESSAGE);
});
