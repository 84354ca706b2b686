/** Nothing of one machine gets into the repository: no mirror and no registry. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { test } from "node:test";
import { repositoryRoot } from "../../harness/paths.ts";

const skipped = new Set([".git", ".cache", "node_modules", "dist"]);

/** Every file of the checkout that may be committed. */
function files(dir: string = repositoryRoot): string[] {
  return readdirSync(dir, { withFileTypes: true }).flatMap((entry) => {
    if (skipped.has(entry.name)) return [];
    const path = join(dir, entry.name);
    if (entry.isDirectory()) return files(path);
    return entry.isFile() ? [relative(repositoryRoot, path)] : [];
  });
}

/** Host names of the archives that this machine's own apt uses, besides those of Debian itself. */
function mirrorHosts(): string[] {
  const listed = ["/etc/apt/sources.list"];
  try {
    listed.push(...readdirSync("/etc/apt/sources.list.d").map((name) => `/etc/apt/sources.list.d/${name}`));
  } catch {
    // A system without apt has no mirror to leak.
  }
  const text = listed.map((path) => {
    try {
      return readFileSync(path, "utf8");
    } catch {
      return "";
    }
  });
  const hosts = [...text.join("\n").matchAll(/https?:\/\/([^/\s]+)/g)].map((match) => match[1] ?? "");
  return [...new Set([...hosts, ["deb", "debian", "org"].join(".")])];
}

test("no file names a package mirror", () => {
  const hosts = mirrorHosts();
  const wrong = files().flatMap((file) => {
    const text = readFileSync(join(repositoryRoot, file), "latin1");
    return hosts.filter((host) => text.includes(host)).map((host) => `${file}: ${host}`);
  });
  assert.deepEqual(wrong, []);
});

test("the lock file names no download address", () => {
  assert.doesNotMatch(readFileSync(join(repositoryRoot, "package-lock.json"), "utf8"), /"resolved": "http/);
});
