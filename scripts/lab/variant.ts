/** The hosts that the lab can be, and what is installed in each. */
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { UsageError } from "../command-line.ts";
import { dependencyNames } from "../package/debian.ts";
import { repositoryRoot } from "./places.ts";

/** The host's CAISSON_TIMEOUT_SCALE (src/base/timeouts.ts): its processor is emulated. */
export const TIMEOUT_SCALE = 10;

/** Room for images, logs and a second kernel; what is not written takes no space. */
const DISK_BYTES = 8 * 2 ** 30;

export interface Variant {
  readonly name: string;
  readonly suite: "bookworm" | "trixie";
  /** Kernel that the host boots; that of the backports lies in /var/lib/lab/kernel, to be installed by a test. */
  readonly kernel: string;
  /** What a host of pods has besides. Our own package's dependencies are added, so that installing it needs no network. */
  readonly packages: readonly string[];
}

/** What makes a Debian a machine that can be booted and entered. */
const MACHINE = [
  "systemd-sysv",
  "udev",
  "dbus",
  "kmod",
  "iproute2",
  "openssh-server",
  "procps",
  "initramfs-tools",
  // The tests compile programs for their images.
  "gcc",
  "libc6-dev",
  // The bench of the network.
  "iperf3",
];

const variants: readonly Variant[] = [
  {
    name: "debian13",
    suite: "trixie",
    kernel: "linux-image-cloud-amd64",
    packages: ["containerd", "runc", "containernetworking-plugins", ...dependencyNames("trixie")],
  },
  {
    name: "debian12",
    suite: "bookworm",
    kernel: "linux-image-cloud-amd64",
    packages: ["containerd", "runc", "containernetworking-plugins", ...dependencyNames("bookworm")],
  },
];

/** @throws UsageError when there is none of that name */
export function variantOf(name: string): Variant {
  const found = variants.find((variant) => variant.name === name);
  if (found !== undefined) return found;
  throw new UsageError(
    `there is no lab "${name}"; there are ${variants.map((variant) => variant.name).join(", ")}`,
  );
}

function installedPackages(variant: Variant): string[] {
  return [...new Set([...MACHINE, variant.kernel, ...variant.packages])].sort();
}

/** What make-disk.sh is told about the host: SUITE DISK_KB TIMEOUT_SCALE KERNEL PACKAGE... */
export function recipeOf(variant: Variant): string[] {
  const { suite, kernel } = variant;
  return [suite, String(DISK_BYTES / 1024), String(TIMEOUT_SCALE), kernel, ...installedPackages(variant)];
}

/** Changes whenever a built disk is no longer what would be built. */
export function recipeKey(variant: Variant): string {
  const hash = createHash("sha256").update(JSON.stringify(recipeOf(variant)));
  const dir = join(repositoryRoot, "scripts/lab/host");
  const files = readdirSync(dir, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  for (const path of files.map((entry) => join(entry.parentPath ?? entry.path, entry.name)).sort()) {
    hash.update(`${path.slice(dir.length)}\0`).update(readFileSync(path));
  }
  hash.update(readFileSync(join(repositoryRoot, "scripts/lab/make-disk.sh")));
  return hash.digest("hex");
}
