/** scripts/code-cache.mjs: a program split into loader, source and code cache. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { fileURLToPath } from "node:url";
import { Script } from "node:vm";
import { loader, wrapped } from "../../../scripts/code-cache.mjs";

const recorder = fileURLToPath(new URL("../../../scripts/code-cache.mjs", import.meta.url));
const program = (word: string) =>
  `"use strict";const path=require("node:path");process.stdout.write("${word} "+path.basename(__filename)+process.argv[2]);`;

let dir = "";
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "caisson-code-cache-"));
  writeFileSync(join(dir, "p.js"), wrapped(program("one")));
  writeFileSync(join(dir, "p.cjs"), loader("p.js"));
  const record = spawnSync(process.execPath, [
    recorder,
    "record",
    join(dir, "p.js"),
    join(dir, "p.js.cache"),
    join(dir, "p.cjs"),
    "-x",
  ]);
  assert.equal(record.stdout.toString(), "one p.cjs-x");
});
afterEach(() => rmSync(dir, { recursive: true }));

function run(...flags: string[]): string {
  const result = spawnSync(process.execPath, [...flags, join(dir, "p.cjs"), "-y"]);
  return result.stdout.toString() + result.stderr.toString();
}

/** The stored cache without its first line, and the source it is for. */
function stored() {
  const source = readFileSync(join(dir, "p.js"), "latin1");
  const line = source.indexOf("\n") + 1;
  const cache = readFileSync(join(dir, "p.js.cache"));
  assert.equal(cache.toString("latin1", 0, line), source.slice(0, line));
  return { source, cachedData: cache.subarray(line) };
}

test("a program with a code cache runs as the loader, with a cache that V8 takes", () => {
  assert.equal(run(), "one p.cjs-y");
  const { source, cachedData } = stored();
  assert.equal(new Script(source, { filename: join(dir, "p.js"), cachedData }).cachedDataRejected, false);
});

test("a program runs without its cache, with a broken one, and under flags that the cache is not for", () => {
  assert.equal(run("--no-opt"), "one p.cjs-y");
  const cache = readFileSync(join(dir, "p.js.cache"));
  writeFileSync(join(dir, "p.js.cache"), cache.subarray(0, 90));
  assert.equal(run(), "one p.cjs-y");
  rmSync(join(dir, "p.js.cache"));
  assert.equal(run(), "one p.cjs-y");
});

test("the cache of another source of the same length is passed over", () => {
  writeFileSync(join(dir, "p.js"), wrapped(program("two")));
  assert.equal(run(), "two p.cjs-y");
});

test("what a program exports as rehearse is compiled in its cache, also when its arguments end it", () => {
  const late = "function late(){return [1,2,3].map((n)=>n*n).join()+process.argv[2];}";
  const source = (rehearse: string) => wrapped(`${late}exports.rehearse=async()=>{${rehearse}};throw 1;`);
  const sizes = ["", "late();"].map((rehearse, i) => {
    writeFileSync(join(dir, "r.js"), source(rehearse));
    const args = ["record", join(dir, "r.js"), join(dir, `r${i}.cache`), join(dir, "r.cjs"), "-x"];
    const record = spawnSync(process.execPath, [recorder, ...args]);
    assert.equal(record.status, 0, record.stderr.toString());
    return readFileSync(join(dir, `r${i}.cache`)).length;
  });
  const [without = 0, withIt = 0] = sizes;
  assert.ok(withIt > without + 100, `${withIt} bytes with what ran, ${without} without`);
});
