/**
 * Compiles src/native/addon/*.c into dist/native/caisson.node with gcc alone. Each source is compiled when its own
 * content, a header, the flags or the compiler changed, and the addon is linked when an object changed.
 *
 * Environment: CC (default gcc); CAISSON_SANITIZE (e.g. "address,undefined") builds dist/native-san/ instead.
 * The result needs Node-API 8 and the libuv that Node exports, so one build runs on Node 20, 22 and 24.
 */
import { execFileSync, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const sources = join(root, "src/native/addon");
const sanitize = process.env.CAISSON_SANITIZE ?? "";
const out = join(root, sanitize === "" ? "dist/native" : "dist/native-san");
const compiler = process.env.CC ?? "gcc";
const FLAGS = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-fPIC", "-O2", "-g", "-fvisibility=hidden"];
if (sanitize !== "") FLAGS.push(`-fsanitize=${sanitize}`, "-fno-omit-frame-pointer");

/** A failure that the person who builds can mend. */
class BuildError extends Error {}

/** The -I flags for node_api.h and uv.h. @returns {string[]} */
function includeFlags() {
  const own = join(dirname(dirname(process.execPath)), "include/node");
  const directories = [];
  if (existsSync(join(own, "node_api.h"))) directories.push(own);
  else directories.push(packagedHeaders(own));
  if (!directories.some((directory) => existsSync(join(directory, "uv.h")))) {
    if (!existsSync("/usr/include/uv.h")) {
      throw new BuildError(
        `uv.h is neither in ${own} nor in /usr/include: install the Debian package libuv1-dev (or Node's own headers, package libnode-dev)`,
      );
    }
  }
  return directories.flatMap((directory) => ["-isystem", directory]);
}

/** Directory of the npm package node-api-headers. @param {string} own where Node's headers were not found */
function packagedHeaders(own) {
  try {
    return createRequire(import.meta.url)("node-api-headers").include_dir;
  } catch {
    throw new BuildError(
      `node_api.h is not in ${own}: install Node's headers (Debian package libnode-dev) or run "npm install --no-save node-api-headers"`,
    );
  }
}

/** @param {(string | Buffer)[]} parts */
function digest(...parts) {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(String(part.length)).update(":").update(part);
  return hash.digest("hex");
}

/** Runs the compiler; what it says goes to our stderr. @param {string[]} args @returns {Promise<void>} */
function compile(args) {
  return new Promise((resolve, reject) => {
    const child = spawn(compiler, args, { stdio: "inherit" });
    child.once("error", reject);
    child.once("close", (code) => {
      if (code === 0) resolve();
      else reject(new BuildError(`${compiler} failed (status ${code}) on ${args[args.length - 1]}`));
    });
  });
}

/** @returns {string} */
function compilerVersion() {
  try {
    return execFileSync(compiler, ["--version"], { encoding: "utf8" });
  } catch (error) {
    throw new BuildError(`the C compiler ${compiler} does not run: install the Debian package gcc`, {
      cause: error,
    });
  }
}

/** What was built last: output name → digest of its inputs. @returns {Record<string, string>} */
function readState() {
  try {
    return JSON.parse(readFileSync(join(out, "state.json"), "utf8"));
  } catch {
    return {};
  }
}

/** Writes `file` by way of a temporary name, so that no other process sees half of it. */
async function produce(file, make) {
  const temporary = `${file}.${process.pid}`;
  try {
    await make(temporary);
    renameSync(temporary, file);
  } finally {
    rmSync(temporary, { force: true });
  }
}

async function main() {
  const files = readdirSync(sources).sort();
  const headers = files
    .filter((file) => file.endsWith(".h"))
    .map((file) => readFileSync(join(sources, file)));
  const includes = includeFlags();
  const toolchain = digest(compilerVersion(), process.version, ...FLAGS, ...includes, ...headers);
  const before = readState();
  /** @type {Record<string, string>} */
  const state = {};
  const units = files
    .filter((file) => file.endsWith(".c"))
    .map((file) => ({ source: join(sources, file), object: `${file}.o` }));
  const stale = units.filter(({ source, object }) => {
    state[object] = digest(toolchain, readFileSync(source));
    return state[object] !== before[object] || !existsSync(join(out, object));
  });
  state["caisson.node"] = digest(...units.map(({ object }) => `${object} ${state[object]}`));
  const addon = join(out, "caisson.node");
  if (stale.length === 0 && state["caisson.node"] === before["caisson.node"] && existsSync(addon)) return;

  mkdirSync(out, { recursive: true });
  const queue = [...stale];
  const worker = async () => {
    for (let unit = queue.shift(); unit !== undefined; unit = queue.shift()) {
      const { source, object } = unit;
      await produce(join(out, object), (file) => compile([...FLAGS, ...includes, "-c", "-o", file, source]));
    }
  };
  await Promise.all(Array.from({ length: Math.min(availableParallelism(), 4) }, worker));
  const objects = units.map(({ object }) => join(out, object));
  await produce(addon, (file) => compile(["-shared", "-pthread", ...FLAGS, "-o", file, ...objects]));
  await produce(join(out, "state.json"), (file) => writeFileSync(file, JSON.stringify(state)));
  process.stderr.write(`built ${addon}: ${stale.length} of ${units.length} files compiled\n`);
}

try {
  await main();
} catch (error) {
  if (!(error instanceof BuildError)) throw error;
  process.stderr.write(`build-native: ${error.message}\n`);
  process.exitCode = 1;
}
