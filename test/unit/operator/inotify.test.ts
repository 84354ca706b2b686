import assert from "node:assert/strict";
import { watch } from "node:fs";
import { test } from "node:test";
import { inotifyInstances, instancesOf, takenInstances } from "../../../src/operator/inotify.ts";

test("a limit that leaves room for a node's pods needs no remedy; a lower one names the sysctl", () => {
  assert.deepEqual(inotifyInstances("8192\n", 40), { found: "40 of 8192 instances are taken", remedy: "" });
  assert.equal(inotifyInstances("128\n", 18).remedy, "");
  const low = inotifyInstances("128\n", 19);
  assert.match(low.found, /^19 of 128 instances are taken; /);
  assert.match(low.remedy, /^sysctl fs\.inotify\.max_user_instances=8192/);
  assert.equal(inotifyInstances("", 0).remedy, "");
});

test("the instance of this process is counted, and it counts as one of root's", () => {
  assert.equal(instancesOf(String(process.pid)), 0);
  const watchers = Array.from({ length: 3 }, () => watch("/"));
  // libuv has one instance for all that an event loop watches.
  assert.equal(instancesOf(String(process.pid)), 1);
  assert.ok(takenInstances() >= 1);
  for (const watcher of watchers) watcher.close();
});
