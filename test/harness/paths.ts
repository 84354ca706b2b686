/** Where the repository keeps what the tests, the demo and the benchmarks run. */
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

/** The top of the checkout. */
export const repositoryRoot = fileURLToPath(new URL("../..", import.meta.url));

const inRepository = (path: string) => join(repositoryRoot, path);

/** Files that `npm run setup` makes. `assertSetUp` tells when one is missing. */
export const built = {
  bin: inRepository("dist/bin"),
  shim: inRepository("dist/bin/containerd-shim-caisson-v2"),
  osbuilder: inRepository("dist/bin/osbuilder"),
  kernel: inRepository(".cache/images/vmlinuz.container"),
  initrd: inRepository(".cache/images/caisson-initrd.img"),
  vsockBackend: inRepository(".cache/tools/usr/bin/vhost-device-vsock"),
  busybox: inRepository(".cache/tools/bin/busybox"),
} as const;

/** Where make-template.ts puts the tests' template. */
export const testTemplates = inRepository(".cache/templates");

/** The distribution's virtiofsd: Debian 12 has the C one, Debian 13 the Rust one. */
export function virtiofsdPath(): string {
  const candidates = ["/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd"];
  const found = candidates.find((path) => existsSync(path));
  if (found === undefined) throw new Error(`no virtiofsd at ${candidates.join(" or ")}: run npm run setup`);
  return found;
}

/**
 * Options of `osbuilder generate` that name the kernel which the set-up uses: none where the system has one of its own,
 * else the one unpacked below .cache.
 */
export function guestKernelArguments(): string[] {
  const modules = inRepository(".cache/kernel/lib/modules");
  if (!existsSync(modules)) return [];
  const release = readdirSync(modules)[0] ?? "";
  return [
    "--modules-dir",
    join(modules, release),
    "--kernel-image",
    inRepository(`.cache/kernel/boot/vmlinuz-${release}`),
  ];
}

/** @throws when something that `npm run setup` makes is absent, naming it. */
export function assertSetUp(): void {
  const absent = Object.values(built).filter((path) => !existsSync(path));
  if (absent.length > 0) throw new Error(`missing: ${absent.join(", ")}; run npm run setup first`);
}
