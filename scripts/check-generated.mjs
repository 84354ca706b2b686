/** Generates src/gen anew in a scratch directory and fails when it differs from what is committed. */
import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const scratch = mkdtempSync(join(tmpdir(), "caisson-gen-"));

/** Every file below `dir`, by relative name. @param {string} dir */
function contents(dir) {
  const files = readdirSync(dir, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  return new Map(
    files.map((entry) => {
      const path = join(entry.parentPath ?? entry.path, entry.name);
      return [path.slice(dir.length + 1), readFileSync(path, "utf8")];
    }),
  );
}

try {
  execFileSync(join(root, "node_modules/.bin/buf"), ["generate", "--output", scratch], {
    cwd: root,
    stdio: "inherit",
  });
  const fresh = contents(join(scratch, "src/gen"));
  const committed = contents(join(root, "src/gen"));
  const names = new Set([...fresh.keys(), ...committed.keys()]);
  const different = [...names].filter((name) => fresh.get(name) !== committed.get(name));
  for (const name of different)
    console.error(`src/gen/${name} is not what proto/ gives; run npm run generate`);
  process.exitCode = different.length === 0 ? 0 : 1;
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
