/** QEMU 8 or later, whose emulator can run the KVM of a host inside it; and the command line of that host. */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { ownQemu, type Places, repositoryRoot } from "./places.ts";
import { commandStep } from "./steps.ts";

export interface Qemu {
  readonly system: string;
  readonly image: string;
  /** -L options for firmware that lies beside an unpacked QEMU. */
  readonly firmware: readonly string[];
}

/** The oldest that has run it; 7.2 crashes the host. */
const LEAST_MAJOR = 10;
const MEMORY_MB = 4096;
const SUITE = "bookworm-backports";
const PACKAGES = ["qemu-system-x86", "qemu-system-common", "qemu-system-data", "qemu-utils", "seabios"];

function isNewEnough(system: string): boolean {
  try {
    const text = execFileSync(system, ["--version"], {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    });
    return Number(/version (\d+)/.exec(text)?.[1]) >= LEAST_MAJOR;
  } catch {
    return false;
  }
}

/** The system's QEMU where it is new enough, else that of Debian 12's backports, unpacked below .cache. */
export async function provideQemu(): Promise<Qemu> {
  const system = { system: "/usr/bin/qemu-system-x86_64", image: "/usr/bin/qemu-img", firmware: [] };
  if (isNewEnough(system.system) && existsSync(system.image)) return system;
  const own: Qemu = {
    system: join(ownQemu, "usr/bin/qemu-system-x86_64"),
    image: join(ownQemu, "usr/bin/qemu-img"),
    firmware: ["-L", join(ownQemu, "usr/share/qemu"), "-L", join(ownQemu, "usr/share/seabios")],
  };
  if (!isNewEnough(own.system)) {
    const script = join(repositoryRoot, "scripts/lab/debian.sh");
    const names = PACKAGES.map((name) => `${name}/${SUITE}`);
    await commandStep(`QEMU of ${SUITE}`, ["bash", script, "qemu", ownQemu, SUITE, ...names]);
  }
  return own;
}

/** The host's memory: anonymous, or the content of a file, which takes what the host writes where it is shared. */
export type Memory = { readonly file?: undefined } | { readonly file: string; readonly shared: boolean };

export interface HostArguments {
  readonly places: Places;
  /** The qcow2 that takes what the host writes. */
  readonly disk: string;
  /** Directory for the sockets qmp and ready. */
  readonly sockets: string;
  /** File for the host's serial console. */
  readonly console: string;
  readonly memory: Memory;
  /** Waits for a saved state to go on from. */
  readonly incoming: boolean;
}

/** The host emulated in software: AMD's virtualisation in it, two processors, no network but the way to its ssh. */
export function hostArguments(qemu: Qemu, init: HostArguments): string[] {
  const { places, disk, sockets, console, memory, incoming } = init;
  const ram = `id=ram,size=${MEMORY_MB}M`;
  const options = [
    ["-M", "q35"],
    ["-accel", "tcg,thread=multi"],
    ["-cpu", "max,+svm"],
    ["-smp", "2"],
    ["-m", String(MEMORY_MB)],
    ["-machine", "memory-backend=ram"],
    memory.file === undefined
      ? ["-object", `memory-backend-ram,${ram}`]
      : [
          "-object",
          `memory-backend-file,${ram},mem-path=${memory.file},share=${memory.shared ? "on" : "off"}`,
        ],
    ["-nodefaults", "-no-user-config", "-no-reboot"],
    ["-display", "none"],
    ["-serial", `file:${console}`],
    ["-qmp", `unix:${join(sockets, "qmp")},server=on,wait=off`],
    ["-device", "virtio-serial-pci"],
    ["-chardev", `socket,id=ready,path=${join(sockets, "ready")},server=on,wait=off`],
    ["-device", "virtserialport,chardev=ready,name=lab.ready"],
    ["-drive", `file=${disk},format=qcow2,if=virtio,cache=unsafe`],
    // Port 0: one that is free.
    ["-netdev", "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:0-:22"],
    ["-device", "virtio-net-pci,netdev=net"],
    ["-device", "virtio-rng-pci"],
    ["-kernel", places.kernel, "-initrd", places.initrd],
    ["-append", "console=ttyS0 quiet panic=1 root=/dev/vda rw net.ifnames=0"],
    ...(incoming ? [["-incoming", "defer"]] : []),
  ];
  return [...qemu.firmware, ...options.flat()];
}

/** What a saved state depends on: the emulator, its command line, the disk below it. */
export function snapshotKey(qemu: Qemu, places: Places): string {
  const same = { disk: "", sockets: "", console: "", memory: { file: "", shared: false }, incoming: true };
  return createHash("sha256")
    .update(readFileSync(qemu.system))
    .update(JSON.stringify(hostArguments(qemu, { places, ...same })))
    .update(readFileSync(places.key))
    .digest("hex");
}
