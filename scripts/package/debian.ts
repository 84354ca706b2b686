/** The package's metadata: control, checksums and maintainer scripts. */
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { LEAST_NODE } from "../../src/operator/versions.ts";
import { MAINTAINER } from "./documents.ts";

export interface MetadataInit {
  readonly withNode: boolean;
  readonly version: string;
  /** Bytes of all files. */
  readonly installedBytes: number;
}

interface MetadataFile {
  readonly text: string;
  readonly mode: 0o644 | 0o755;
}

/**
 * What the programs run: QEMU with its firmware, virtiofsd (Debian 12 has it in qemu-system-common), the decompressors
 * of modules and kernels. libc6: what the addon was linked against on the oldest supported release.
 */
const DEPENDS = [
  "libc6 (>= 2.36)",
  "qemu-system-x86",
  "virtiofsd | qemu-system-common (<< 1:8)",
  "xz-utils",
  "zstd",
];

/** Node's own libraries, for the package that brings it. */
const NODE_DEPENDS = ["libgcc-s1", "libstdc++6"];

/** What makes it useful: an engine that starts pods, the tools for `shim exec`, tc for `shim net show --tc`. */
const RECOMMENDS = ["containerd | containerd.io | cri-o", "busybox-static", "iproute2"];

const SCRIPTS = ["postinst", "prerm", "postrm"];

/** The files of DEBIAN/ by name. @param tree the staged files */
export function debianMetadata(root: string, tree: string, init: MetadataInit): Map<string, MetadataFile> {
  const source = (name: string) => readFileSync(join(root, "packaging", name), "utf8");
  const files = new Map<string, MetadataFile>();
  files.set("control", { text: control(init), mode: 0o644 });
  files.set("md5sums", { text: checksums(tree), mode: 0o644 });
  if (!init.withNode) files.set("triggers", { text: source("triggers"), mode: 0o644 });
  for (const name of SCRIPTS) files.set(name, { text: source(name), mode: 0o755 });
  return files;
}

/**
 * The packages that installing ours brings along, by name: of alternatives the first, and on Debian 12 (bookworm), for
 * which there is the package with its own Node, the one that it has.
 */
export function dependencyNames(suite: "bookworm" | "trixie"): string[] {
  const old = suite === "bookworm";
  const wanted = [...DEPENDS, ...(old ? NODE_DEPENDS : ["nodejs"]), ...RECOMMENDS];
  return wanted.map((alternatives) => {
    const names = alternatives.split("|").map((alternative) => alternative.trim().split(" ")[0] ?? "");
    return (old && names.includes("qemu-system-common") ? "qemu-system-common" : names[0]) ?? "";
  });
}

function control({ withNode, version, installedBytes }: MetadataInit): string {
  const depends = [...DEPENDS, ...(withNode ? NODE_DEPENDS : [`nodejs (>= ${LEAST_NODE})`])].sort();
  return `Package: caisson
Version: ${version}
Architecture: amd64
Maintainer: ${MAINTAINER}
Installed-Size: ${Math.ceil(installedBytes / 1024)}
Depends: ${depends.join(", ")}
Recommends: ${RECOMMENDS.join(", ")}
Suggests: linux-image-cloud-amd64, vhost-device-vsock
Section: admin
Priority: optional
Description: container runtime that gives each pod a virtual machine
 Caisson is a runtime for containerd and CRI-O. Every Kubernetes pod, and
 every container started alone, runs in a QEMU microVM of its own; the
 rest of the host's set-up stays as it is.
 .
 The package holds the runtime io.containerd.caisson.v2, the command
 shim for those who look after a node, and osbuilder, which makes the
 guests' kernel and initial RAM disk from a kernel of the host.
`;
}

function checksums(tree: string): string {
  const files = readdirSync(tree, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(tree, join(entry.parentPath ?? entry.path, entry.name)))
    .sort();
  const lines = files.map((file) => {
    const sum = createHash("md5")
      .update(readFileSync(join(tree, file)))
      .digest("hex");
    return `${sum}  ${file}\n`;
  });
  return lines.join("");
}
