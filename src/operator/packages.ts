/** How a missing program is installed here: the remedies that `check` prints. */
export type Distro = "debian" | "fedora" | "other";

/** By what os-release calls itself and what it is like. Pure. */
export function distroOf(ids: readonly string[]): Distro {
  if (ids.includes("debian") || ids.includes("ubuntu")) return "debian";
  return ids.includes("fedora") || ids.includes("rhel") || ids.includes("centos") ? "fedora" : "other";
}

const packages = {
  qemu: { debian: "qemu-system-x86", fedora: "qemu-kvm" },
  virtiofsd: { debian: "virtiofsd", fedora: "virtiofsd" },
  vsock: { debian: "vhost-device-vsock", fedora: "vhost-device-vsock" },
  utilLinux: { debian: "util-linux", fedora: "util-linux" },
  iproute: { debian: "iproute2", fedora: "iproute-tc" },
  containerd: { debian: "containerd", fedora: "containerd" },
  busybox: { debian: "busybox-static", fedora: "busybox" },
  kernel: { debian: "linux-image-cloud-amd64", fedora: "kernel-core" },
} as const;
export type Package = keyof typeof packages;

/** "apt-get install qemu-system-x86". Pure. */
export function installCommand(distro: Distro, what: Package): string {
  if (distro === "other") return `install ${packages[what].fedora}`;
  return distro === "debian"
    ? `apt-get install ${packages[what].debian}`
    : `dnf install ${packages[what].fedora}`;
}
