import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { renderMarkdown, renderToml } from "../../../src/config/document.ts";
import { loadConfig } from "../../../src/config/index.ts";
import { ignoredKataKeys } from "../../../src/config/kata.ts";
import { type Section, sectionNames, sections } from "../../../src/config/keys.ts";

const committed = (path: string) => readFileSync(new URL(`../../../${path}`, import.meta.url), "utf8");
const remedy = "run node --import tsx scripts/config-docs.ts";

test("docs/configuration.md is what the table of keys says", () => {
  assert.equal(committed("docs/configuration.md"), renderMarkdown(), remedy);
});

test("configs/configuration.toml is what the table of keys says", () => {
  assert.equal(committed("configs/configuration.toml"), renderToml(), remedy);
});

test("the shipped file loads, and with every key uncommented it still means the defaults", async () => {
  const directory = mkdtempSync(join(tmpdir(), "caisson-shipped-"));
  try {
    const path = join(directory, "c.toml");
    const values = async (text: string) => {
      writeFileSync(path, text);
      const { hypervisor, agent, runtime, image, warnings } = await loadConfig({ path, env: {} });
      return { hypervisor, agent, runtime, image, warnings };
    };
    const builtIn = await values("");
    assert.deepEqual(await values(renderToml()), builtIn);
    const uncommented = renderToml().replace(/^#(\w+ = )/gm, "$1");
    assert.ok(/^default_memory = 512$/m.test(uncommented));
    assert.deepEqual(await values(uncommented), builtIn);
  } finally {
    rmSync(directory, { recursive: true });
  }
});

test("every default is a value that its key accepts", () => {
  for (const name of sectionNames) {
    const section: Section = sections[name];
    for (const [keyName, key] of Object.entries(section.keys)) {
      assert.ok(key.accept(key.fallback), `${name}.${keyName}`);
      assert.match(key.doc, /\.$/, `${name}.${keyName}: the text is made of sentences`);
    }
  }
});

test("no key is both known and passed over", () => {
  const known = new Set(
    sectionNames.flatMap((name) => {
      const section: Section = sections[name];
      return Object.keys(section.keys).map((key) => `${section.table}.${key}`);
    }),
  );
  for (const [table, keys] of Object.entries(ignoredKataKeys)) {
    for (const name of Object.keys(keys))
      assert.equal(known.has(`${table}.${name}`), false, `${table}.${name}`);
  }
});
