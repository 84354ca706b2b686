/** The documents say what the code says. */
import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { errorCatalogue, Status } from "../../../src/base/errors.ts";
import { repositoryRoot } from "../../harness/paths.ts";

const read = (path: string) => readFileSync(join(repositoryRoot, path), "utf8");

test("docs/errors.md lists each error code once, with the status it is sent as", () => {
  const names = new Map<number, string>(Object.entries(Status).map(([name, code]) => [code, name]));
  const expected = Object.entries(errorCatalogue).map(
    ([code, status]) => `${code} ${status} ${names.get(status)}`,
  );
  const rows = [...read("docs/errors.md").matchAll(/^\| `(ERR_[A-Z_]+)` \| (\d+) (\w+) \|/gm)];
  const found = rows.map((row) => `${row[1]} ${row[2]} ${row[3]}`);
  assert.deepEqual(found.sort(), expected.sort());
});

test("CHANGELOG.md has the form of Keep a Changelog", () => {
  const lines = read("CHANGELOG.md").split("\n");
  assert.equal(lines[0], "# Changelog");
  const headings = lines.filter((line) => line.startsWith("## "));
  assert.equal(headings[0], "## [Unreleased]");
  for (const heading of headings.slice(1))
    assert.match(heading, /^## \[\d+\.\d+\.\d+\] - \d{4}-\d{2}-\d{2}$/);
  const kinds = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"];
  for (const line of lines.filter((text) => text.startsWith("### "))) {
    assert.ok(kinds.includes(line.slice(4)), `"${line}" is none of ${kinds.join(", ")}`);
  }
});

test("every npm command that a document names exists", () => {
  const { scripts } = JSON.parse(read("package.json")) as { scripts: Record<string, string> };
  const wrong: string[] = [];
  for (const file of documents()) {
    for (const match of read(file).matchAll(/\bnpm run ([a-z][a-z:-]*)/g)) {
      if (scripts[match[1] ?? ""] === undefined) wrong.push(`${file}: npm run ${match[1]}`);
    }
  }
  assert.deepEqual(wrong, []);
});

test("the README names the stable commands, and CI runs its test command", () => {
  const readme = read("README.md");
  for (const command of ["npm run setup", "npm run demo", "npm test", "npm run bench -- boot"]) {
    assert.ok(readme.includes(command), `README.md does not name "${command}"`);
  }
  assert.match(read(".ci/run"), /^npm test$/m);
});

test("CONTRIBUTING.md names each npm script", () => {
  const { scripts } = JSON.parse(read("package.json")) as { scripts: Record<string, string> };
  const text = read("CONTRIBUTING.md");
  const missing = Object.keys(scripts).filter(
    (name) => !new RegExp(`\`(npm (run )?)?${name}(\`| )`).test(text),
  );
  assert.deepEqual(missing, []);
});

test("links between documents lead to files that exist", () => {
  const wrong: string[] = [];
  for (const file of documents()) {
    for (const match of read(file).matchAll(/\]\((?!https?:|#)([^)#\s]+)(?:#[^)]*)?\)/g)) {
      const target = join(repositoryRoot, dirname(file), match[1] ?? "");
      if (!existsSync(target)) wrong.push(`${file}: ${match[1]}`);
    }
  }
  assert.deepEqual(wrong, []);
});

test("decision records are numbered without a gap and have their sections", () => {
  const names = readdirSync(join(repositoryRoot, "docs/decisions")).sort();
  assert.ok(names.length > 0);
  for (const [index, name] of names.entries()) {
    assert.match(name, new RegExp(`^${String(index + 1).padStart(4, "0")}-[a-z0-9-]+\\.md$`));
    const text = read(`docs/decisions/${name}`);
    for (const section of ["## Context", "## Options", "## Decision", "## Evidence", "## When to revisit"]) {
      assert.ok(text.includes(`\n${section}\n`), `${name} has no section "${section}"`);
    }
  }
});

function documents(): string[] {
  const below = (dir: string) =>
    readdirSync(join(repositoryRoot, dir), { recursive: true })
      .map(String)
      .filter((name) => name.endsWith(".md"))
      .map((name) => join(dir, name));
  const top = readdirSync(repositoryRoot).filter((name) => name.endsWith(".md"));
  return [...top, ...below("docs"), ...below("proto")];
}
