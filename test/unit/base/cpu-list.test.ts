import assert from "node:assert/strict";
import { test } from "node:test";
import { countOf, unionOf } from "../../../src/base/cpu-list.ts";

test("unionOf() gives every number once, in ranges, and takes nothing from what is no list", () => {
  assert.equal(unionOf(["0-3,8", "2-5", undefined, "", "10, 9"]), "0-5,8-10");
  assert.equal(unionOf(["3-1", "-1", "x", "1-", 7, null]), "");
  assert.equal(unionOf(["9990-9999"]), "", "no such cpu");
});

for (const [list, count] of [
  ["0\n", 1],
  ["0-3\n", 4],
  ["0-3,5,8-9\n", 7],
  ["0-3,2-5,4", 6],
  ["\n", 0],
  ["", 0],
  ["7-2,x,99999,-", 0],
] as const) {
  test(`countOf() counts ${count} in ${JSON.stringify(list)}`, () => {
    assert.equal(countOf(list), count);
  });
}

test("a list of many large ranges takes no longer than its text", () => {
  const list = Array.from({ length: 100_000 }, (_, index) => `${index % 8192}-8191`).join(",");
  const started = performance.now();
  assert.equal(countOf(list), 8192);
  assert.equal(unionOf([list, list]), "0-8191");
  assert.ok(performance.now() - started < 5_000);
});
