/** `lab build`: the disk of a Debian host, made by debootstrap, as an ext4 file system in a sparse file. */
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { packageCache, placesOf, repositoryRoot } from "./places.ts";
import { commandStep, say } from "./steps.ts";
import { recipeKey, recipeOf, type Variant } from "./variant.ts";

const debianScript = join(repositoryRoot, "scripts/lab/debian.sh");

/** Whether the disk is what the recipe would build. */
export function isBuilt(variant: Variant): boolean {
  const places = placesOf(variant.name);
  const files = [places.key, places.disk, places.kernel, places.initrd, places.sshKey];
  return files.every((file) => existsSync(file)) && readFileSync(places.key, "utf8") === recipeKey(variant);
}

/** Builds the disk unless it is there. Preconditions: root. */
export async function buildDisk(variant: Variant): Promise<void> {
  const places = placesOf(variant.name);
  if (isBuilt(variant)) {
    say(`${variant.name}: the disk is up to date`);
    return;
  }
  const key = recipeKey(variant);
  const mirror = execFileSync("bash", [debianScript, "mirror"], { encoding: "utf8" }).trim();
  for (const file of [places.key, places.snapshot.key, places.sshKey, `${places.sshKey}.pub`]) {
    rmSync(file, { force: true });
  }
  mkdirSync(packageCache, { recursive: true });
  mkdirSync(places.dir, { recursive: true });
  // Its public half opens the host.
  execFileSync("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", places.sshKey]);
  say(`${variant.name}: downloads some 250 MB of Debian ${variant.suite} from this system's own mirror`);
  const namespace = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--"];
  const make = ["bash", join(repositoryRoot, "scripts/lab/make-disk.sh"), places.dir, mirror, packageCache];
  await commandStep(`disk of ${variant.name}`, [...namespace, ...make, ...recipeOf(variant)]);
  renameSync(`${places.disk}.new`, places.disk);
  writeFileSync(places.key, key);
}
