/**
 * Builds everything below dist/: the native addon, the guest agent, and one self-contained CommonJS bundle per program.
 * Each part is skipped when the content of its inputs is that of the last build and its outputs are still there.
 *
 * Programs: every file directly in src/bin. Those named in PROGRAMS become dist/bin/<name>, executable, as does the
 * launcher in C (scripts/build-launcher.mjs) of those named in LAUNCHED; any other is the
 * entry of a process that a program starts and becomes dist/lib/<name>.cjs. Those named in CACHED are loaders of
 * dist/lib/<name>.js and its code cache (scripts/code-cache.mjs). dist/bundled.json lists the npm packages in them.
 */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { basename, dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { CACHED, loader, refresh, wrapped } from "./code-cache.mjs";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const PROGRAMS = ["shim", "osbuilder"];
/** Programs of dist/lib that the launcher in dist/bin runs by their first line. */
const LAUNCHED = ["containerd-shim-caisson-v2"];
/** What every part depends on besides its own sources. */
const TOOLCHAIN = ["package-lock.json", "tsconfig.json"];

/** @typedef {{ name: string, inputs: string[], outputs: string[], run: () => void | Promise<void> }} Part */

/** The entries in src/bin, by name without extension. */
function entries() {
  return readdirSync(join(root, "src/bin"))
    .filter((file) => file.endsWith(".ts"))
    .map((file) => basename(file, ".ts"));
}

/** @returns {Part[]} */
function parts() {
  const names = entries();
  return [
    {
      name: "addon",
      inputs: ["src/native", "scripts/build-native.mjs"],
      outputs: [],
      run: () => runScript("scripts/build-native.mjs"),
    },
    {
      name: "launcher",
      inputs: ["src/native/launcher", "scripts/build-launcher.mjs"],
      outputs: ["dist/bin/containerd-shim-caisson-v2"],
      run: () => runScript("scripts/build-launcher.mjs"),
    },
    {
      name: "agent",
      inputs: ["guest-agent", "src/base", "src/gen", "src/ttrpc", "src/streams", "src/oci"],
      outputs: ["dist/guest"],
      run: () => runScript("guest-agent/build.mjs"),
    },
    {
      name: "programs",
      inputs: ["src", "osbuilder", "package.json", "scripts/build.mjs", "scripts/code-cache.mjs"],
      outputs: [...names.map(outputOf), ...Object.keys(CACHED).map(sourceOf), "dist/bundled.json"],
      run: () => bundle(names),
    },
  ];
}

/** Where the bundle of entry `name` goes, relative to the repository. @param {string} name */
function outputOf(name) {
  return PROGRAMS.includes(name) ? `dist/bin/${name}` : `dist/lib/${name}.cjs`;
}

/** Where the source of a cached program goes. @param {string} name */
function sourceOf(name) {
  return `dist/lib/${name}.js`;
}

/** @param {string} script path in the repository */
function runScript(script) {
  const result = spawnSync(process.execPath, [join(root, script)], { cwd: root, stdio: "inherit" });
  if (result.status !== 0) throw new Error(`${script} failed`);
}

/** @param {string[]} names */
async function bundle(names) {
  mkdirSync(join(root, "dist/bin"), { recursive: true });
  mkdirSync(join(root, "dist/lib"), { recursive: true });
  // The bundles are CommonJS whatever the package.json above them says.
  writeFileSync(join(root, "dist/package.json"), '{ "type": "commonjs" }\n');
  const packages = new Set();
  await Promise.all(
    names.map(async (name) => {
      const outfile = join(root, outputOf(name));
      const result = await build({
        absWorkingDir: root,
        entryPoints: [join(root, "src/bin", `${name}.ts`)],
        outfile,
        bundle: true,
        platform: "node",
        target: "node20",
        format: "cjs",
        minifySyntax: true,
        legalComments: "none",
        external: ["*.node"],
        // tsx runs the same sources as modules; a bundle is CommonJS and finds itself through these.
        define: {
          "import.meta.url": "importMetaUrl",
          "import.meta.dirname": "__dirname",
          "import.meta.filename": "__filename",
        },
        // Scripts with a code cache cannot import; what is bundled is not imported, and Node's modules can be required.
        supported: { "dynamic-import": false },
        banner: {
          js: '"use strict";const importMetaUrl=require("node:url").pathToFileURL(__filename).href;',
        },
        write: false,
        metafile: true,
        logLevel: "warning",
      });
      if (result.errors.length > 0) throw new Error(`bundling ${name} failed`);
      for (const input of Object.keys(result.metafile.inputs)) {
        const [directory] = input.match(/^.*node_modules\/(@[^/]+\/)?[^/]+/) ?? [];
        if (directory !== undefined) packages.add(directory.slice(directory.indexOf("node_modules/")));
      }
      const source = ascii(result.outputFiles[0].text);
      const start = [...PROGRAMS, ...LAUNCHED].includes(name) ? "#!/usr/bin/env node\n" : "";
      if (name in CACHED) {
        replaceFile(outfile, start + loader(relative(dirname(outfile), join(root, sourceOf(name)))));
        await writeCached(name, source);
      } else replaceFile(outfile, start + source);
    }),
  );
  writeFileSync(join(root, "dist/bundled.json"), `${JSON.stringify([...packages].sort(), undefined, 2)}\n`);
}

/** The same program in one byte per character: V8 keeps any other in two. @param {string} source */
function ascii(source) {
  // Only strings, regular expressions and comments have such characters, and all of them take the escape.
  return source.replace(
    /[^\0-\x7f]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/** Writes the source of a cached program and its code cache. @param {string} name @param {string} source */
async function writeCached(name, source) {
  // Until its cache is written too, a source is run without: the loader compares the two.
  replaceFile(join(root, sourceOf(name)), wrapped(source));
  await refresh(join(root, "dist"), name);
}

/** Replaces `path` at once. @param {string} path @param {string} content */
function replaceFile(path, content) {
  writeFileSync(`${path}.new`, content, { mode: 0o755 });
  renameSync(`${path}.new`, path);
}

/** Every file at or below `path`, sorted. @param {string} path @returns {string[]} */
function filesBelow(path) {
  const absolute = join(root, path);
  if (!existsSync(absolute)) return [];
  const files = readdirSync(absolute, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(root, join(entry.parentPath ?? entry.path, entry.name)));
  return files.filter((file) => !file.includes("node_modules/")).sort();
}

/** Hash of the names and contents of a part's inputs. @param {Part} part */
function keyOf(part) {
  const hash = createHash("sha256").update(process.version);
  for (const input of [...part.inputs, ...TOOLCHAIN]) {
    const files = /\.[a-z]+$/.test(input) ? [input] : filesBelow(input);
    for (const file of files) hash.update(`${file}\0`).update(readFileSync(join(root, file)));
  }
  return hash.digest("hex");
}

async function main() {
  const stamps = join(root, "dist/.stamps");
  mkdirSync(stamps, { recursive: true });
  const wanted = process.argv.slice(2);
  for (const part of parts()) {
    if (wanted.length > 0 && !wanted.includes(part.name)) continue;
    const key = keyOf(part);
    const stamp = join(stamps, part.name);
    const fresh = existsSync(stamp) && readFileSync(stamp, "utf8") === key;
    if (fresh && part.outputs.every((output) => existsSync(join(root, output)))) {
      console.log(`build: ${part.name}: up to date`);
      continue;
    }
    const started = performance.now();
    await part.run();
    writeFileSync(stamp, key);
    console.log(`build: ${part.name}: done in ${((performance.now() - started) / 1000).toFixed(1)} s`);
  }
}

try {
  await main();
} catch (error) {
  // esbuild and the other scripts have printed the details.
  console.error(`build: ${error instanceof Error ? error.message.split("\n")[0] : error}`);
  process.exitCode = 1;
}
