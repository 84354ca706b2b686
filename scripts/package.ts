/**
 * Builds the Debian package and the plain tarball: the programs, bundled as scripts/build.mjs leaves them, and what belongs
 * to them on a host. Equal sources, tools and SOURCE_DATE_EPOCH give equal bytes.
 */
import { execFileSync, type StdioOptions } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { VERSION } from "../src/base/version.ts";
import { failure } from "./command-line.ts";
import { contents } from "./package/contents.ts";
import { debianMetadata } from "./package/debian.ts";
import { provideNode } from "./package/node.ts";
import { stage } from "./package/stage.ts";

const USAGE = `Usage: npm run package -- [--with-node] [--output DIR] [--package-version VERSION]

Builds the Debian package and a tarball of the same files.

  --with-node                put a Node into the package, for systems whose own is too old (Debian 12)
  --output DIR               where they go (default dist/packages)
  --package-version VERSION  default ${VERSION}; for packages that the tests upgrade to`;

const root = fileURLToPath(new URL("..", import.meta.url));

/** The time that everything in the packages carries, in seconds: SOURCE_DATE_EPOCH, else that of the last commit. */
function sourceDate(): number {
  const given = process.env.SOURCE_DATE_EPOCH;
  if (given !== undefined && /^\d+$/.test(given)) return Number(given);
  try {
    const stdio: StdioOptions = ["ignore", "pipe", "ignore"];
    return Number(execFileSync("git", ["log", "-1", "--format=%ct"], { cwd: root, stdio }));
  } catch {
    throw new Error("the sources are in no git repository: set SOURCE_DATE_EPOCH (seconds since 1970)");
  }
}

function run(command: string, args: readonly string[], env: NodeJS.ProcessEnv = {}): void {
  execFileSync(command, args, { cwd: root, stdio: "inherit", env: { ...process.env, ...env } });
}

function report(file: string, started: number): void {
  const megabytes = (statSync(file).size / 1e6).toFixed(1);
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  console.log(`package: ${relative(process.cwd(), file)}: ${megabytes} MB, ${seconds} s`);
}

function main(): void {
  const { values } = parseArgs({
    options: {
      "with-node": { type: "boolean", default: false },
      output: { type: "string" },
      "package-version": { type: "string", default: VERSION },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  if (values.help) {
    console.log(USAGE);
    return;
  }
  const output = resolve(values.output ?? join(root, "dist/packages"));
  const withNode = values["with-node"];
  const version = values["package-version"];
  const epoch = sourceDate();
  run(process.execPath, ["scripts/build.mjs"]);
  const node = withNode ? provideNode(join(root, ".cache")) : undefined;
  mkdirSync(output, { recursive: true });
  const scratch = mkdtempSync(join(tmpdir(), "caisson-package-"));
  try {
    const variant = withNode ? "-with-node" : "";
    const tree = join(scratch, "tree");
    const installedBytes = stage(contents(root, { node, version, epoch }), tree, epoch);

    const tarball = join(output, `caisson${variant}-${version}-linux-x64.tar.gz`);
    let started = performance.now();
    const tarFlags = ["--sort=name", "--format=gnu", "--owner=0", "--group=0", "--numeric-owner"];
    run("tar", [
      ...tarFlags,
      `--mtime=@${epoch}`,
      "--use-compress-program=gzip -n",
      "-cf",
      tarball,
      "-C",
      tree,
      ".",
    ]);
    report(tarball, started);

    started = performance.now();
    for (const [name, { text, mode }] of debianMetadata(root, tree, { withNode, version, installedBytes })) {
      const file = join(tree, "DEBIAN", name);
      mkdirSync(dirname(file), { recursive: true });
      writeFileSync(file, text, { mode });
    }
    const deb = join(output, `caisson${variant}_${version}_amd64.deb`);
    // A hundred megabytes in xz take a minute to pack, and on a small node as long to unpack.
    const compression = withNode ? "-Zgzip" : "-Zxz";
    const flags = [compression, "--root-owner-group", "--build", tree, deb];
    run("dpkg-deb", flags, { SOURCE_DATE_EPOCH: String(epoch) });
    report(deb, started);
    console.log(`package: install with: apt install ./${basename(deb)}`);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

try {
  main();
} catch (error) {
  process.exitCode = failure("package", error);
}
