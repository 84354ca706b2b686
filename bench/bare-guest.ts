/**
 * A guest with nothing of ours in it: the machine, memory and kernel of a sandbox's QEMU, busybox as its init, one script.
 * What a sandbox costs beyond this, we cost.
 */
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { type CpioEntry, cpioArchive } from "../osbuilder/cpio.ts";
import { built, repositoryRoot } from "../test/harness/paths.ts";
import { runOk } from "../test/harness/run.ts";
import type { World } from "../test/harness/world.ts";
import { floorCommand } from "./floor.ts";
import { guestKernelRelease } from "./guest-kernel.ts";

const MODULE_LIMIT_BYTES = 1 << 26;

export interface BareGuestInit {
  readonly world: World;
  /** The command line of a sandbox's QEMU. */
  readonly sandbox: readonly string[];
  /** Further arguments: the devices. */
  readonly devices: readonly string[];
  /** Kernel modules besides virtio_pci, with all that they need. */
  readonly modules: readonly string[];
  /** Programs for /bin, static. */
  readonly programs: Readonly<Record<string, string>>;
  /** Run by sh, then the machine is powered off. */
  readonly script: string;
  readonly timeoutMs: number;
  /** Called with all that the guest has printed, each time that there is more. */
  readonly onOutput?: (text: string) => void;
}

/** @returns what the guest printed. */
export async function runBareGuest(init: BareGuestInit): Promise<string> {
  const initrd = join(init.world.dir, "bare.img");
  writeFileSync(initrd, cpioArchive(await entries(init), 0));
  const argv = [...floorCommand(init.sandbox, initrd), ...init.devices, "-serial", "stdio"];
  const { timeoutMs, onOutput } = init;
  if (onOutput === undefined) return (await runOk(init.world.enter(argv), { timeoutMs })).stdout;
  let output = "";
  const onStdout = (chunk: Buffer) => {
    output += chunk.toString();
    onOutput(output);
  };
  await runOk(init.world.enter(argv), { timeoutMs, onStdout });
  return output;
}

async function entries({ modules, programs, script }: BareGuestInit): Promise<CpioEntry[]> {
  const drivers = driverPaths(["virtio_pci", ...modules]);
  const lines = [
    "#!/bin/sh",
    "export PATH=/bin",
    "mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sys /sys",
    ...drivers.map((path) => `insmod /modules/${basename(path, ".xz")}`),
    script,
    "poweroff -f",
  ];
  const files = [
    { path: "/bin/busybox", data: readFileSync(built.busybox) },
    ...Object.entries(programs).map(([name, path]) => ({ path: `/bin/${name}`, data: readFileSync(path) })),
    ...drivers.map((path) => ({ path: `/modules/${basename(path, ".xz")}`, data: moduleBytes(path) })),
    { path: "/init", data: Buffer.from(`${lines.join("\n")}\n`) },
  ];
  const applets = (await runOk([built.busybox, "--list"])).stdout.trim().split("\n");
  return [
    ...["/bin", "/dev", "/mnt", "/modules", "/proc", "/sys"].map(
      (path) => ({ kind: "directory", path, mode: 0o755 }) as const,
    ),
    ...files.map((file) => ({ kind: "file", mode: 0o755, ...file }) as const),
    ...applets
      .filter((name) => name !== "busybox")
      .map((name) => ({ kind: "symlink", path: `/bin/${name}`, target: "busybox" }) as const),
  ];
}

/** Debian 13 compresses its modules. */
const moduleBytes = (path: string): Buffer =>
  path.endsWith(".xz")
    ? execFileSync("xz", ["--decompress", "--stdout", path], { maxBuffer: MODULE_LIMIT_BYTES })
    : readFileSync(path);

/** The modules of the guest's kernel, each after those that it needs itself. */
function driverPaths(modules: readonly string[]): string[] {
  const release = guestKernelRelease();
  // Where the set-up has unpacked a kernel of its own, its modules are there.
  const unpacked = join(repositoryRoot, ".cache/kernel");
  const root = existsSync(join(unpacked, "lib/modules", release)) ? ["--dirname", unpacked] : [];
  const argv = [...root, "--set-version", release, "--show-depends", "--all", ...modules];
  const listed = execFileSync("/sbin/modprobe", argv, { encoding: "utf8" });
  return [...new Set([...listed.matchAll(/^insmod (\S+)/gm)].map((match) => match[1] ?? ""))];
}
