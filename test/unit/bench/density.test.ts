import assert from "node:assert/strict";
import { test } from "node:test";
import { hasRoom } from "../../../bench/suites/density.ts";

test("no further sandbox is started where the host has less than 1 GiB available, and that is said", () => {
  const said: string[] = [];
  const roomWith = (mib: number) =>
    hasRoom(`MemTotal: 9999999 kB\nMemAvailable:   ${mib * 1024} kB\n`, (text) => said.push(text));
  assert.equal(roomWith(1024), true);
  assert.deepEqual(said, []);
  assert.equal(roomWith(1000), false);
  assert.deepEqual(said, [
    "no more: 1000 MiB of the host's memory are available, and 1024 MiB are left to it",
  ]);
});
