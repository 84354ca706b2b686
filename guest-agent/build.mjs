// Builds dist/guest/agent: TypeScript -> one ES module (esbuild) -> QuickJS bytecode -> a static ELF file.
// Usage: node guest-agent/build.mjs [--debug]; exported for scripts/build.mjs as buildGuestAgent().
import { execFileSync } from "node:child_process";
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
} from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { build } from "esbuild";
import { schemaPlugin } from "./schema-plugin.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const root = dirname(here);
const nativeDir = join(here, "native");

/** Where static libc, libquickjs and libseccomp come from: a Debian 13 tree unpacked by `npm run setup`, or the system. */
function toolchain() {
  const triplet = execFileSync("gcc", ["-dumpmachine"], { encoding: "utf8" }).trim();
  const sysroot = resolve(process.env.CAISSON_SYSROOT ?? join(root, ".cache/sysroot"));
  const lib = (prefix) => join(prefix, "usr/lib", triplet);
  const inTree = existsSync(join(lib(sysroot), "quickjs/libquickjs.a"));
  const prefix = inTree ? sysroot : "/";
  if (!inTree && !existsSync(join(lib("/"), "quickjs/libquickjs.a"))) {
    throw new Error(
      `libquickjs.a is neither in ${sysroot} (run "npm run setup") nor installed (package libquickjs)`,
    );
  }
  const include = join(prefix, "usr/include");
  return {
    compile: [
      ...(inTree ? [`--sysroot=${sysroot}`, "-isystem", include, "-isystem", join(include, triplet)] : []),
      "-isystem",
      join(include, "quickjs"),
    ],
    link: [
      "-static",
      ...(inTree ? [`--sysroot=${sysroot}`, `-B${lib(sysroot)}`, `-L${lib(sysroot)}`] : []),
      `-L${join(lib(prefix), "quickjs")}`,
    ],
  };
}

const compileFlags = [
  "-std=gnu11",
  "-Os",
  "-Wall",
  "-Wextra",
  "-Werror",
  "-ffunction-sections",
  "-fdata-sections",
  "-fno-asynchronous-unwind-tables",
  "-fstack-protector-strong",
  "-D_GNU_SOURCE",
];

function newest(paths) {
  return Math.max(...paths.map((path) => statSync(path).mtimeMs));
}

/** Compiles `source` unless the object is newer than it and every header. Another build may do the same at the same time. */
function compileObject(tools, source, object, headers) {
  if (existsSync(object) && statSync(object).mtimeMs > newest([source, ...headers])) return;
  const made = `${object}.${process.pid}`;
  execFileSync("gcc", [...compileFlags, ...tools.compile, "-I", nativeDir, "-c", source, "-o", made], {
    stdio: "inherit",
  });
  renameSync(made, object);
}

async function bundle(entry, outfile, debug) {
  await build({
    entryPoints: [entry],
    outfile,
    bundle: true,
    format: "esm",
    platform: "neutral",
    mainFields: ["module", "main"],
    target: "es2023",
    // QuickJS calls the iterator's return() after a for-await loop that ended by itself too (ECMA-262, 14.7.5.7 does
    // not), which streams take for a reader that gave up.
    supported: { "for-await": false },
    minify: !debug,
    external: ["sys"],
    plugins: [schemaPlugin()],
    legalComments: "none",
    charset: "utf8",
    tsconfig: join(here, "tsconfig.json"),
    logLevel: "warning",
  });
}

/**
 * Builds the agent.
 * @param {{ debug?: boolean, outDir?: string, entry?: string, workDir?: string }} options debug keeps names and line
 *   structure for stack traces; entry is another program for the same runtime (tests), which wants its own workDir for what
 *   is made of it; the objects of the native code are the same for all
 * @returns {Promise<{ path: string, bytes: number, bytecodeBytes: number, bundleBytes: number }>}
 */
export async function buildGuestAgent(options = {}) {
  const outDir = options.outDir ?? join(root, "dist/guest");
  const objectDir = join(root, ".cache/guest-agent");
  const workDir = options.workDir ?? objectDir;
  for (const directory of [outDir, objectDir, workDir]) mkdirSync(directory, { recursive: true });
  const tools = toolchain();
  const names = readdirSync(nativeDir);
  const headers = names.filter((name) => name.endsWith(".h")).map((name) => join(nativeDir, name));
  const self = fileURLToPath(import.meta.url);

  const compiler = join(objectDir, "compile");
  const compilerObject = join(objectDir, "compile.o");
  compileObject(tools, join(nativeDir, "compile.c"), compilerObject, [self]);
  if (!existsSync(compiler) || statSync(compiler).mtimeMs < statSync(compilerObject).mtimeMs) {
    execFileSync("gcc", [compilerObject, ...tools.link, "-lquickjs", "-lm", "-o", compiler], {
      stdio: "inherit",
    });
  }

  const bundled = join(workDir, "agent.js");
  await bundle(options.entry ?? join(here, "src/main.ts"), bundled, options.debug ?? false);
  const bytecode = join(workDir, "bytecode.c");
  execFileSync(compiler, [bundled, bytecode, ...(options.debug ? ["debug"] : [])], { stdio: "inherit" });
  // osbuilder reads the version from the program; nothing in it refers to this.
  const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  const marker = `__attribute__((used, retain)) const char agent_version[] = "caisson-agent/${version}";\n`;
  appendFileSync(bytecode, marker);

  const objects = [];
  for (const name of names.filter((name) => name.endsWith(".c") && name !== "compile.c").sort()) {
    const object = join(objectDir, name.replace(/\.c$/, ".o"));
    compileObject(tools, join(nativeDir, name), object, [...headers, self]);
    objects.push(object);
  }
  const bytecodeObject = join(workDir, "bytecode.o");
  compileObject(tools, bytecode, bytecodeObject, [self]);
  const path = join(outDir, "agent");
  const trimmed = ["__register_frame_info", "__deregister_frame_info"].map((name) => `-Wl,--wrap=${name}`);
  const linkFlags = [...tools.link, "-s", "-Wl,--gc-sections", "-Wl,--build-id=none", ...trimmed];
  execFileSync(
    "gcc",
    [...objects, bytecodeObject, ...linkFlags, "-lquickjs", "-lseccomp", "-lm", "-o", path],
    {
      stdio: "inherit",
    },
  );
  // Nothing in the agent unwinds the stack (C without exceptions or thread cancellation): 130 kB of tables.
  execFileSync("strip", ["-R", ".eh_frame", "-R", ".eh_frame_hdr", "-R", ".gcc_except_table", path]);
  const size = /agent_bytecode_size = (\d+)/.exec(readFileSync(bytecode, "utf8"));
  return {
    path,
    bytes: statSync(path).size,
    bytecodeBytes: Number(size?.[1]),
    bundleBytes: statSync(bundled).size,
  };
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(resolve(process.argv[1])).href) {
  const built = await buildGuestAgent({ debug: process.argv.includes("--debug") });
  console.log(
    `${built.path}: ${built.bytes} bytes (bundle ${built.bundleBytes}, bytecode ${built.bytecodeBytes})`,
  );
}
