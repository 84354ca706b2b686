/** A QEMU whose emulator can run the KVM of a host inside it; and the command line of that host. */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { ownQemu, type Places, repositoryRoot } from "./places.ts";
import { commandStep, say } from "./steps.ts";

export interface Qemu {
  /** Programs and their first arguments. */
  readonly system: readonly string[];
  readonly image: readonly string[];
  /** What `system` runs. */
  readonly file: string;
}

/** In 10.0.2 guests of the host's KVM hung more often (docs/lab.md); 7.2 crashes the host at its first guest. */
const LEAST_VERSION = [10, 0, 13] as const;
const MEMORY_MB = 4096;
const SUITE = "trixie";
const PACKAGES = ["qemu-system-x86", "qemu-utils", "seabios"];

function isNewEnough(command: readonly string[]): boolean {
  const [file = "", ...args] = command;
  let text: string;
  try {
    text = execFileSync(file, [...args, "--version"], {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    });
  } catch {
    return false;
  }
  const found = /version (\d+)\.(\d+)\.(\d+)/.exec(text)?.slice(1).map(Number) ?? [];
  const differs = LEAST_VERSION.findIndex((least, index) => least !== found[index]);
  return differs === -1 || (found[differs] ?? 0) > (LEAST_VERSION[differs] ?? 0);
}

/** The system's QEMU where it is new enough, else that of Debian 13 with its libraries, unpacked below .cache. */
export async function provideQemu(): Promise<Qemu> {
  const file = "/usr/bin/qemu-system-x86_64";
  const system: Qemu = { system: [file], image: ["/usr/bin/qemu-img"], file };
  if (isNewEnough(system.system) && existsSync("/usr/bin/qemu-img")) return system;
  const inTree = (path: string) => join(ownQemu, "usr", path);
  // Its own loader and C library: this system's may be older.
  const loader = [inTree("lib64/ld-linux-x86-64.so.2"), "--library-path", inTree("lib/x86_64-linux-gnu")];
  const own: Qemu = {
    system: [
      ...loader,
      inTree("bin/qemu-system-x86_64"),
      ...["-L", inTree("share/qemu"), "-L", inTree("share/seabios")],
    ],
    image: [...loader, inTree("bin/qemu-img")],
    file: inTree("bin/qemu-system-x86_64"),
  };
  if (!isNewEnough(own.system)) {
    say(`downloads some 40 MB of QEMU of Debian ${SUITE} from this system's own mirror`);
    const script = join(repositoryRoot, "scripts/lab/debian.sh");
    await commandStep(`QEMU of ${SUITE}`, ["bash", script, "tree", ownQemu, SUITE, ...PACKAGES]);
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

/**
 * The host emulated in software: AMD's virtualisation in it, no network but the way to its ssh. One processor: with two,
 * guests that ran side by side went wrong (docs/lab.md, "Two processors").
 */
export function hostArguments(init: HostArguments): string[] {
  const { places, disk, sockets, console, memory, incoming } = init;
  const ram = `id=ram,size=${MEMORY_MB}M`;
  const options = [
    ["-M", "q35"],
    ["-accel", "tcg,thread=multi"],
    ["-cpu", "max,+svm"],
    ["-smp", "1"],
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
  return options.flat();
}

/** What a saved state depends on: the emulator, its command line, the disk below it. */
export function snapshotKey(qemu: Qemu, places: Places): string {
  const same = { disk: "", sockets: "", console: "", memory: { file: "", shared: false }, incoming: true };
  return createHash("sha256")
    .update(readFileSync(qemu.file))
    .update(JSON.stringify(hostArguments({ places, ...same })))
    .update(readFileSync(places.key))
    .digest("hex");
}
