/**
 * V8's code cache for a bundle: a program that starts with it has the bytecode of what it runs at its start, instead of
 * parsing and compiling a megabyte of source first.
 *
 * The program is split in three: a small loader at the program's own path, `<name>.js` with the source, whose first line
 * is a comment with the digest of the rest, and `<name>.js.cache` with that same line followed by V8's data. The
 * loader takes the cache only when both lines are equal (V8 itself compares no more than the length of the source), and
 * V8 refuses data of another version of itself or of other flags; without a cache the source is simply compiled.
 *
 * A program with a launcher in C also has a snapshot of Node's heap, `<name>.snapshot`, taken after its modules were loaded
 * from that cache: started from it, Node has nothing to load. Beside it lies its key, by which the launcher knows what it is
 * for (src/native/launcher/snapshot.c). Where Node cannot make one, the program is started without.
 *
 * As a program (`node [flags] code-cache.mjs record SOURCE CACHE LOADER ARGUMENTS…`) it runs the source once with
 * ARGUMENTS, and its export `rehearse`, and stores the cache of what was compiled then. The flags must be those that the program is run with.
 * `node code-cache.mjs refresh ROOT` makes the caches of all programs in ROOT (the directory of bin and lib), as the
 * build does and, for the Node of its host, the installed package.
 */
import { execFileSync, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { existsSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import vm from "node:vm";

/**
 * Programs whose start a pod or a person waits for: the loader below the root, Node's flags, as the program is run with them, and
 * arguments that end it once everything that its start needs is loaded.
 */
export const CACHED = {
  "containerd-shim-caisson-v2": {
    loader: "lib/containerd-shim-caisson-v2.cjs",
    flags: [],
    arguments: ["-namespace", "none", "-id", "/", "start"],
  },
  // No sandbox has a name with a slash alone: `exec` ends when all its modules are there.
  shim: { loader: "bin/shim", flags: [], arguments: ["exec", "/", "true"] },
  // As src/shim/start.ts spawns it.
  "shim-server": {
    loader: "lib/shim-server.cjs",
    flags: ["--max-semi-space-size=1"],
    arguments: ["-none"],
    launcher: "bin/containerd-shim-caisson-v2",
  },
};

/** How a CommonJS module is wrapped (Node's documentation, "The module wrapper"); on one line, so that lines agree. */
const WRAPPER = ["(function (exports, require, module, __filename, __dirname) { ", "\n})"];

/** `source` as a function expression below its digest. @param {string} source a CommonJS bundle without `#!` line */
export function wrapped(source) {
  const digest = createHash("sha256").update(source).digest("hex");
  return `//${digest}\n${WRAPPER[0]}${source}${WRAPPER[1]}`;
}

/**
 * The loader's source. What takes a snapshot (Node's internal/main/mksnapshot) has no `module` for it.
 * @param {string} path of the wrapped source, relative to the loader
 */
export function loader(path) {
  return `"use strict";
const { readFileSync } = require("node:fs");
const { Script } = require("node:vm");
const filename = require("node:path").join(__dirname, ${JSON.stringify(path)});
const source = readFileSync(filename, "latin1");
const line = source.slice(0, source.indexOf("\\n") + 1);
let cachedData;
try {
  const stored = readFileSync(filename + ".cache");
  if (stored.latin1Slice(0, line.length) === line) cachedData = stored.subarray(line.length);
} catch {} // as good as without
const script = new Script(source, { filename, cachedData });
const own = typeof module === "object" ? module : { exports: {} };
script.runInThisContext().call(own.exports, own.exports, require, own, __filename, __dirname);
`;
}

/**
 * Runs the source, then the function `rehearse` where it exports one, and stores the cache when that ends, however it
 * ends. V8 stores what was compiled by then: of a function that did not run, the place alone.
 */
async function record([sourcePath, cachePath, loaderPath, ...args]) {
  const source = readFileSync(sourcePath, "latin1");
  const script = new vm.Script(source, { filename: sourcePath });
  const line = source.slice(0, source.indexOf("\n") + 1);
  const store = () =>
    writeFileSync(cachePath, Buffer.concat([Buffer.from(line, "latin1"), script.createCachedData()]));
  process.on("exit", store);
  process.on("uncaughtException", () => process.exit(0));
  process.argv = [process.execPath, loaderPath, ...args];
  const module = { exports: {} };
  const require = createRequire(loaderPath);
  try {
    script
      .runInThisContext()
      .call(module.exports, module.exports, require, module, loaderPath, dirname(loaderPath));
  } catch {} // ARGUMENTS end it
  await module.exports.rehearse?.();
  process.exit(0);
}

/**
 * Makes the cache of `name` below `root`, from its wrapped source in lib. Replaced at once.
 * @param {string} root @param {string} name
 */
export async function refresh(root, name) {
  const { loader, flags, arguments: args, launcher } = CACHED[name];
  const source = join(root, `lib/${name}.js`);
  const fresh = `${source}.cache.new`;
  const recorder = fileURLToPath(import.meta.url);
  const run = [...flags, recorder, "record", source, fresh, join(root, loader), ...args];
  const child = spawn(process.execPath, run, { stdio: "ignore" });
  const [status] = await once(child, "exit");
  if (!existsSync(fresh)) throw new Error(`no code cache of ${name}: status ${status}`);
  renameSync(fresh, `${source}.cache`);
  if (launcher !== undefined) await takeSnapshot(root, name);
}

/** @param {string} root @param {string} name */
async function takeSnapshot(root, name) {
  const { loader, flags, arguments: args, launcher } = CACHED[name];
  const blob = join(root, `lib/${name}.snapshot`);
  const fresh = `${blob}.new`;
  const program = join(root, loader);
  rmSync(`${blob}.key`, { force: true });
  rmSync(blob, { force: true });
  const taken = await status([...flags, "--snapshot-blob", fresh, "--build-snapshot", program]);
  // It has to end as the program that loads everything.
  const [plain, started] = [
    await status([...flags, program, ...args]),
    await status([...flags, "--snapshot-blob", fresh, program, ...args]),
  ];
  if (taken !== 0 || started !== plain) {
    rmSync(fresh, { force: true });
    console.error(`no snapshot of ${name}: status ${taken} and ${started}; it will start more slowly`);
    return;
  }
  renameSync(fresh, blob);
  const key = execFileSync(join(root, launcher), ["-snapshot-key", process.execPath]);
  writeFileSync(`${blob}.key`, key);
}

/** The exit status of a Node with these arguments; null when a signal has ended it. @param {string[]} args */
async function status(args) {
  const env = { ...process.env };
  delete env.NODE_OPTIONS;
  const [code] = await once(spawn(process.execPath, args, { stdio: "ignore", env }), "exit");
  return code;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [command, ...args] = process.argv.slice(2);
  if (command === "record") await record(args);
  else await Promise.all(Object.keys(CACHED).map((name) => refresh(args[0], name)));
}
