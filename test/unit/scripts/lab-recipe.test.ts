/** What the disk of a host of the lab is made of. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { recipeOf, TIMEOUT_SCALE, variantOf } from "../../../scripts/lab/variant.ts";
import { repositoryRoot } from "../../harness/paths.ts";

const lab = join(repositoryRoot, "scripts/lab");

test("the recipe, and so its key, names what make-disk.sh is told in its order", () => {
  const [suite, diskKb, scale, kernel, ...packages] = recipeOf(variantOf("debian12"));
  assert.deepEqual(
    [suite, diskKb, scale, kernel],
    ["bookworm", String(8 * 2 ** 20), String(TIMEOUT_SCALE), "linux-image-cloud-amd64"],
  );
  assert.ok(packages.includes("openssh-server"));
  const usage = /make-disk\.sh DIR MIRROR PACKAGE_CACHE (.*)/.exec(
    readFileSync(join(lab, "make-disk.sh"), "utf8"),
  );
  assert.equal(usage?.[1], "SUITE DISK_KB TIMEOUT_SCALE KERNEL PACKAGE...");
});

test("the host's files have the deadlines' factor from the recipe", (t) => {
  const tree = mkdtempSync(join(tmpdir(), "caisson-lab-recipe-"));
  t.after(() => rmSync(tree, { recursive: true, force: true }));
  cpSync(join(lab, "host"), tree, { recursive: true });
  const [line] = /^sed .*@TIMEOUT_SCALE@.*$/m.exec(readFileSync(join(lab, "make-disk.sh"), "utf8")) ?? [];
  assert.ok(line !== undefined);
  execFileSync("bash", ["-ec", line], { env: { ...process.env, tree, timeout_scale: "77" } });
  const files = readdirSync(tree, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  const settings = files.flatMap((entry) => {
    const text = readFileSync(join(entry.parentPath ?? entry.path, entry.name), "utf8");
    return text.match(/CAISSON_TIMEOUT_SCALE=.*|@.*SCALE.*/g) ?? [];
  });
  assert.deepEqual(settings, ["CAISSON_TIMEOUT_SCALE=77", "CAISSON_TIMEOUT_SCALE=77"]);
});
