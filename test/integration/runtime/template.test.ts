/** Templates that are made anew under a machine that has found one. */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import {
  discardTemplate,
  type FoundTemplate,
  MEMORY_FILE,
  openTemplate,
  STATE_FILE,
  templateAt,
} from "../../../src/runtime/template.ts";

const dir = mkdtempSync(join(tmpdir(), "caisson-test-"));
after(() => rmSync(dir, { recursive: true }));

/** Files as a template has them, which replace what is at `path` as `shim factory init --force` does. */
function make(path: string): FoundTemplate {
  const making = `${path}.new`;
  mkdirSync(making);
  for (const name of [STATE_FILE, MEMORY_FILE]) writeFileSync(join(making, name), Buffer.alloc(4096, 1));
  rmSync(path, { recursive: true, force: true });
  renameSync(making, path);
  const found = templateAt(path);
  assert.ok(found !== undefined);
  return found;
}

test("a machine does not take one file of one template and the other of the next", async () => {
  const path = join(dir, "mixed");
  const first = make(path);
  const second = make(path);
  await assert.rejects(openTemplate(first), { code: "ERR_STATE", message: /made anew/ });
  const opened = await openTemplate(second);
  assert.equal(await opened.saved.filled, 4096);
  await opened[Symbol.asyncDispose]();
});

test("who gives a template up leaves the one alone that was made since", () => {
  const path = join(dir, "given-up");
  const first = make(path);
  const second = make(path);
  discardTemplate(first);
  assert.ok(existsSync(path));
  discardTemplate(second);
  assert.ok(!existsSync(path));
  assert.equal(templateAt(path), undefined);
});
