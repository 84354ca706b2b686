/** The rehearsal of a boot, by which the build records the server's code cache. */
import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { rehearseBoot } from "../../../src/shim/rehearse-boot.ts";

test("a rehearsed boot comes as far as its stand-ins let it, and leaves nothing behind", async (t) => {
  const dir = mkdtempSync(join(tmpdir(), "r-"));
  t.after(() => rmSync(dir, { recursive: true }));
  const { TMPDIR } = process.env;
  process.env.TMPDIR = dir;
  t.after(() => {
    if (TMPDIR === undefined) delete process.env.TMPDIR;
    else process.env.TMPDIR = TMPDIR;
  });
  await assert.rejects(rehearseBoot(), /vhost-device-vsock ended before it was ready/);
  assert.deepEqual(readdirSync(dir), []);
  assert.ok(!readFileSync("/proc/self/mountinfo", "utf8").includes(dir));
});
