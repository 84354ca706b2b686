/**
 * A test file of test/e2e as a program for a host of the lab, where neither tsx nor node_modules are: one bundle, in a
 * tree that looks like a checkout whose build is the installed package.
 */
import { copyFileSync, cpSync, mkdirSync, readFileSync, symlinkSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { build, type Plugin } from "esbuild";
import { repositoryRoot } from "./places.ts";

/** Where the tree stands in the host. Not below /opt, which a test covers. */
export const SUITE_ROOT = "/srv/caisson";

/** What the tests find through paths of a checkout, and where the package and its dependencies have it. */
const LINKS: Readonly<Record<string, string>> = {
  "dist/bin": "/usr/lib/caisson/bin",
  "dist/lib": "/usr/lib/caisson/lib",
  "dist/native": "/usr/lib/caisson/native",
  "dist/guest": "/usr/lib/caisson/guest",
  ".cache/images": "/var/cache/caisson",
  ".cache/tools/bin/busybox": "/bin/busybox",
};

/** Files that the tests and their harness read. */
const FILES = ["scripts/test-reporter.mjs", "docs/errors.md", ".cache/tools/usr/bin/vhost-device-vsock"];

/** Directories of which they read files. Their TypeScript is in the programs. */
const DIRECTORIES = ["configs", "test/e2e", "test/harness"];

/** Each source of ours knows itself under the path that it has in the host's tree. */
const ownPaths: Plugin = {
  name: "own-paths",
  setup({ onLoad }) {
    onLoad({ filter: /\.m?[tj]s$/ }, ({ path }) => {
      if (path.includes("/node_modules/")) return undefined;
      const source = readFileSync(path, "utf8");
      const own = join(SUITE_ROOT, relative(repositoryRoot, path));
      const contents = source
        .replaceAll("import.meta.url", JSON.stringify(`file://${own}`))
        .replaceAll("import.meta.dirname", JSON.stringify(dirname(own)))
        .replaceAll("import.meta.filename", JSON.stringify(programOf(relative(repositoryRoot, path))));
      return { contents, loader: path.endsWith(".ts") ? "ts" : "js" };
    });
  },
};

/** The path in the host of the program that a test file becomes. */
export function programOf(file: string): string {
  return join(SUITE_ROOT, file.replace(/\.ts$/, ".mjs"));
}

/** Writes the tree for `files` (paths in the repository) to `target`, which is to be copied to SUITE_ROOT. */
export async function writeSuite(files: readonly string[], target: string): Promise<void> {
  for (const [path, link] of Object.entries(LINKS)) {
    mkdirSync(join(target, dirname(path)), { recursive: true });
    symlinkSync(link, join(target, path));
  }
  const filter = (path: string) => !path.endsWith(".ts");
  for (const path of DIRECTORIES)
    cpSync(join(repositoryRoot, path), join(target, path), { recursive: true, filter });
  for (const path of FILES) {
    mkdirSync(join(target, dirname(path)), { recursive: true });
    copyFileSync(join(repositoryRoot, path), join(target, path));
  }
  for (const file of files) {
    await build({
      absWorkingDir: repositoryRoot,
      entryPoints: [file],
      outfile: join(target, relative(SUITE_ROOT, programOf(file))),
      bundle: true,
      platform: "node",
      target: "node20",
      format: "esm",
      banner: {
        js: 'import { createRequire as requireOf } from "node:module";const require = requireOf(import.meta.url);',
      },
      plugins: [ownPaths],
      logLevel: "warning",
    });
  }
}
