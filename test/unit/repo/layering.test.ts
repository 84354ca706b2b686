/** Imports point down only (docs/architecture.md), and portable modules stay free of Node. */
import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { test } from "node:test";
import { repositoryRoot } from "../../harness/paths.ts";

/** Layers from the top; a layer may import those below it, and itself. */
const layers: readonly (readonly string[])[] = [
  ["bin"],
  ["operator"],
  ["shim"],
  ["runtime"],
  ["hypervisor", "agent", "resources", "persist"],
  ["oci", "config", "ttrpc", "streams", "netlink", "vsock", "qmp", "cli"],
  ["native"],
  ["base", "gen"],
];
const rank = new Map(layers.flatMap((names, index) => names.map((name) => [name, index] as const)));

interface Import {
  readonly file: string;
  readonly target: string;
}

function sourceFiles(dir: string): string[] {
  const absolute = join(repositoryRoot, dir);
  return readdirSync(absolute, { recursive: true })
    .map(String)
    .filter((name) => name.endsWith(".ts"))
    .map((name) => join(dir, name));
}

/** Every import of `file`: static, dynamic and re-exports; those of types alone only on request. */
function importsOf(file: string, options = { types: true }): Import[] {
  const lines = readFileSync(join(repositoryRoot, file), "utf8").split("\n");
  const kept = options.types ? lines : lines.filter((line) => !/^import type\b/.test(line));
  const pattern = /(?:\bfrom\s+|\bimport\s*\(\s*|^import\s+)"([^"]+)"/gm;
  return [...kept.join("\n").matchAll(pattern)].map((match) => ({ file, target: match[1] ?? "" }));
}

/** The directory below src that a relative import leads to; undefined for anything else. */
function moduleOf({ file, target }: Import): string | undefined {
  if (!target.startsWith(".")) return undefined;
  const path = relative("src", join(dirname(file), target));
  return path.startsWith("..") ? undefined : path.split("/")[0];
}

test("every directory of src has its place in the layers", () => {
  const present = readdirSync(join(repositoryRoot, "src"), { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map((entry) => entry.name);
  assert.deepEqual(
    present.filter((name) => !rank.has(name)),
    [],
  );
});

test("imports point down", () => {
  const wrong: string[] = [];
  for (const file of sourceFiles("src")) {
    const own = file.split("/")[1] ?? "";
    for (const entry of importsOf(file)) {
      const target = moduleOf(entry);
      if (target === undefined || target === own) continue;
      const allowed = (rank.get(target) ?? -1) > (rank.get(own) ?? -1);
      if (!allowed) wrong.push(`${file} imports ${entry.target}`);
    }
  }
  assert.deepEqual(wrong, []);
});

/** What the guest bundles: nothing of Node may be below it. */
test("what the guest agent reaches imports no Node module", () => {
  const seen = new Set<string>();
  const wrong: string[] = [];
  const visit = (file: string) => {
    if (seen.has(file) || !existsSync(join(repositoryRoot, file))) return;
    seen.add(file);
    for (const entry of importsOf(file, { types: false })) {
      if (entry.target.startsWith("node:")) wrong.push(`${file} imports ${entry.target}`);
      if (entry.target.startsWith(".")) visit(join(dirname(file), entry.target));
    }
  };
  for (const file of sourceFiles("guest-agent/src")) visit(file);
  assert.deepEqual(wrong, []);
  assert.ok(seen.size > 0);
});
