/**
 * Compiles src/native/launcher/*.c into dist/bin/containerd-shim-caisson-v2: static, because loading shared libraries
 * would take longer than all that it does. Environment: CC (default gcc).
 */
import { spawnSync } from "node:child_process";
import { mkdirSync, readdirSync, renameSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const directory = join(root, "src/native/launcher");
const output = join(root, "dist/bin/containerd-shim-caisson-v2");
const FLAGS = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-Os", "-static", `-ffile-prefix-map=${root}=.`];

mkdirSync(dirname(output), { recursive: true });
const sources = readdirSync(directory).filter((name) => name.endsWith(".c"));
const compiler = process.env.CC ?? "gcc";
const args = [...FLAGS, "-o", `${output}.new`, ...sources.sort().map((name) => join(directory, name))];
const { status, error } = spawnSync(compiler, args, { stdio: "inherit" });
if (status !== 0) {
  console.error(`build-launcher: ${error?.message ?? `${compiler} failed (status ${status})`}`);
  process.exit(1);
}
renameSync(`${output}.new`, output);
