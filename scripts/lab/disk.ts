/** `lab build`: the disk of a Debian host, made by debootstrap, as an ext4 file system in a sparse file. */
import { execFileSync } from "node:child_process";
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { type Places, packageCache, placesOf, repositoryRoot } from "./places.ts";
import { commandStep, say } from "./steps.ts";
import { installedPackages, recipeKey, type Variant } from "./variant.ts";

/** Room for images, logs and a second kernel; what is not written takes no space. */
const DISK_BYTES = 8 * 2 ** 30;

/** Whether the disk is what the recipe would build. */
export function isBuilt(variant: Variant): boolean {
  const places = placesOf(variant.name);
  return existsSync(places.key) && readFileSync(places.key, "utf8") === recipeKey(variant);
}

/** Builds the disk unless it is there. Preconditions: root. */
export async function buildDisk(variant: Variant): Promise<void> {
  const places = placesOf(variant.name);
  if (isBuilt(variant)) {
    say(`${variant.name}: the disk is up to date`);
    return;
  }
  const key = recipeKey(variant);
  await installTools();
  const mirror = execFileSync("bash", [join(repositoryRoot, "scripts/lab/debian.sh"), "mirror"], {
    encoding: "utf8",
  }).trim();
  rmSync(places.key, { force: true });
  rmSync(places.snapshot.key, { force: true });
  mkdirSync(packageCache, { recursive: true });
  mkdirSync(places.dir, { recursive: true });
  const tree = join(places.dir, "tree");
  rmSync(tree, { recursive: true, force: true });
  say(`${variant.name}: downloads some 350 MB of Debian ${variant.suite} from this system's own mirror`);
  const bootstrap = ["--variant=minbase", `--cache-dir=${packageCache}`, variant.suite, tree, mirror];
  await commandStep(`${variant.name} base system`, ["debootstrap", ...bootstrap]);
  cpSync(join(repositoryRoot, "scripts/lab/host"), tree, { recursive: true });
  writeKey(places, tree);
  const finish = ["chroot", tree, "/finish.sh", variant.suite, variant.kernel, ...installedPackages(variant)];
  await commandStep(`${variant.name} packages`, withMounts(tree, finish));
  takeKernel(places, tree);
  const image = `${places.disk}.new`;
  rmSync(image, { force: true });
  const format = ["mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1", "-d", tree, image];
  await commandStep(`${variant.name} file system`, [...format, String(DISK_BYTES / 1024)]);
  renameSync(image, places.disk);
  rmSync(tree, { recursive: true, force: true });
  writeFileSync(places.key, key);
}

async function installTools(): Promise<void> {
  const tools: ReadonlyArray<readonly [string, string]> = [
    ["/usr/sbin/debootstrap", "debootstrap"],
    ["/usr/sbin/mkfs.ext4", "e2fsprogs"],
    ["/usr/bin/ssh", "openssh-client"],
  ];
  const missing = tools.filter(([file]) => !existsSync(file)).map(([, name]) => name);
  if (missing.length === 0) return;
  const install = ["apt-get", "-q", "-y", "--no-install-recommends", "--no-remove", "install", ...missing];
  await commandStep(`installing ${missing.join(", ")}`, install, {
    env: { DEBIAN_FRONTEND: "noninteractive" },
  });
}

/** A key pair of this lab; its public half opens the host. */
function writeKey(places: Places, tree: string): void {
  rmSync(places.sshKey, { force: true });
  rmSync(`${places.sshKey}.pub`, { force: true });
  execFileSync("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", places.sshKey]);
  mkdirSync(join(tree, "root/.ssh"), { recursive: true });
  copyFileSync(`${places.sshKey}.pub`, join(tree, "root/.ssh/authorized_keys"));
}

/** The command in a mount namespace of its own, where `tree` has what packages' scripts look at. */
function withMounts(tree: string, argv: readonly string[]): string[] {
  const script = `set -e
mount --bind "$0" "$0"
mount -t proc proc "$0/proc"
mount -t tmpfs tmpfs "$0/run"
mount -t devtmpfs devtmpfs "$0/dev" 2>/dev/null || mount --rbind /dev "$0/dev"
exec "$@"`;
  return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-c", script, tree, ...argv];
}

/** QEMU loads the kernel itself: the disk needs no boot loader. */
function takeKernel(places: Places, tree: string): void {
  const boot = join(tree, "boot");
  const name = (prefix: string) => {
    const found = readdirSync(boot).find((file) => file.startsWith(prefix));
    if (found === undefined) throw new Error(`the new host has no ${prefix}* in /boot`);
    return join(boot, found);
  };
  copyFileSync(name("vmlinuz-"), places.kernel);
  copyFileSync(name("initrd.img-"), places.initrd);
  chmodSync(places.initrd, 0o600);
}
