/** Where the lab keeps its files. Everything is below .cache/lab of the checkout. */
import { join } from "node:path";
import { fileURLToPath } from "node:url";

export const repositoryRoot = fileURLToPath(new URL("../..", import.meta.url));
export const labRoot = join(repositoryRoot, ".cache/lab");

/** Unpacked QEMU, where the system's own is too old. */
export const ownQemu = join(labRoot, "qemu");

/** Packages that debootstrap fetched, for the next build. */
export const packageCache = join(labRoot, "packages");

export const logs = join(labRoot, "log");

/** Files of one variant of the host. */
export function placesOf(variant: string) {
  const dir = join(labRoot, variant);
  return {
    dir,
    /** The built disk (raw, sparse), with its kernel, its initial RAM disk, and the key of the recipe. */
    disk: join(dir, "disk.raw"),
    kernel: join(dir, "vmlinuz"),
    initrd: join(dir, "initrd.img"),
    key: join(dir, "key"),
    /** Private key that opens the host. */
    sshKey: join(dir, "ssh-key"),
    /** What a booted host was when it was saved: the changes of its disk, its memory, and its devices; the key names what made it. */
    snapshot: {
      disk: join(dir, "snapshot.qcow2"),
      memory: join(dir, "snapshot.memory"),
      state: join(dir, "snapshot.state"),
      key: join(dir, "snapshot.key"),
    },
  } as const;
}

export type Places = ReturnType<typeof placesOf>;

/** What the directories of running hosts begin with. */
export const RUN_PREFIX = "run-";

/** What the running host `name` of a variant writes. */
export function runDir(variant: string, name: string): string {
  return join(placesOf(variant).dir, `${RUN_PREFIX}${name}`);
}
