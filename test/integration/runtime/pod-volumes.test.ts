import assert from "node:assert/strict";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { test } from "node:test";
import { runWithoutInotify } from "./without-inotify.ts";

test("on a host that can watch no more files a guest has a ConfigMap's own files", (t) => {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "volume-"));
  t.after(() => fs.rmSync(dir, { recursive: true }));
  fs.mkdirSync(path.join(dir, "..2026_01_02"));
  fs.symlinkSync("..2026_01_02", path.join(dir, "..data"));
  assert.equal(runWithoutInotify("volume-without-inotify.ts", dir), "/run/caisson/shared/.volumes/0");
});
