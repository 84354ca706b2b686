/** Memory of the processes of a world, by what they are to a sandbox. */
import { readdirSync, readFileSync, readlinkSync, statSync } from "node:fs";
import { childrenOf, type World } from "../test/harness/world.ts";

/** What a sandbox of ours consists of on the host, and how its processes are known. */
const COMPONENTS: Readonly<Record<string, (commandLine: string) => boolean>> = {
  shim: (line) => line.startsWith("caisson-shim"),
  QEMU: (line) => line.includes("qemu-system"),
  virtiofsd: (line) => line.includes("virtiofsd"),
  "vsock backend": (line) => line.includes("vhost-device-vsock"),
};

/**
 * Proportional set size in MiB (Documentation/filesystems/proc.rst, smaps_rollup): what is shared counts by the number of
 * those who share it. Of a QEMU, `shared` is its guest's memory.
 */
export interface Pss {
  readonly all: number;
  readonly anonymous: number;
  readonly shared: number;
  /** Pages of files: programs, libraries and, in a QEMU, kernel and initrd. The host can drop them and read them anew. */
  readonly files: number;
}

const NOTHING: Pss = { all: 0, anonymous: 0, shared: 0, files: 0 };

/** Zeros for a process that has gone. */
export function pssMiB(pid: number): Pss {
  let text: string;
  let memoryFile: number;
  try {
    text = readFileSync(`/proc/${pid}/smaps_rollup`, "utf8");
    memoryFile = memoryFileMiB(pid);
  } catch {
    return NOTHING;
  }
  const field = (name: string) => Number(new RegExp(`^${name}: +(\\d+) kB`, "m").exec(text)?.[1] ?? 0) / 1024;
  const unmapped = Math.max(0, memoryFile - field("Pss_Shmem"));
  return {
    all: field("Pss") + unmapped,
    anonymous: field("Pss_Anon"),
    shared: field("Pss_Shmem") + unmapped,
    files: field("Pss_File"),
  };
}

/**
 * MiB that the host has taken for the memory file of the guest of a QEMU: one from a template has pages that QEMU has not
 * looked at, so that they are in no set of pages. 0 for any other process.
 */
function memoryFileMiB(pid: number): number {
  if (!readFileSync(`/proc/${pid}/cmdline`, "latin1").includes("qemu-system")) return 0;
  const directory = `/proc/${pid}/fd`;
  const files = readdirSync(directory).filter((fd) =>
    readlinkSync(`${directory}/${fd}`).startsWith("/memfd:"),
  );
  const blocks = new Map(
    files.map((fd) => statSync(`${directory}/${fd}`)).map(({ ino, blocks }) => [ino, blocks]),
  );
  return [...blocks.values()].reduce((total, count) => total + count / 2048, 0);
}

/** PSS of all sandboxes of `world` by component. */
export function sandboxMemory(world: World): ReadonlyMap<string, Pss> {
  return new Map(Object.entries(COMPONENTS).map(([name, matches]) => [name, memoryOf(world, matches)]));
}

/**
 * PSS of everything in `world` whose command line matches, and of its children in pid namespaces of their own, as the one
 * that does virtiofsd's work.
 */
export function memoryOf(world: World, matches: (commandLine: string) => boolean): Pss {
  const all = world.processes();
  const ofTheWorld = new Set(all.map(({ pid }) => pid));
  const matching = all.filter((it) => matches(it.commandLine)).map(({ pid }) => pid);
  const apart = matching.flatMap(childrenOf).filter((pid) => !ofTheWorld.has(pid));
  return sum([...matching, ...apart].map(pssMiB));
}

/** A container of runc's that sleeps: shim and process. */
export const isRuncSleeper = (commandLine: string): boolean =>
  /containerd-shim-runc|^sleep 100000/.test(commandLine);

export function sum(parts: Iterable<Pss>): Pss {
  let total = NOTHING;
  for (const part of parts) {
    total = {
      all: total.all + part.all,
      anonymous: total.anonymous + part.anonymous,
      shared: total.shared + part.shared,
      files: total.files + part.files,
    };
  }
  return total;
}
