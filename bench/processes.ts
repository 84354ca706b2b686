/** Memory of the processes of a world, by what they are to a sandbox. */
import { readFileSync } from "node:fs";
import type { World } from "../test/harness/world.ts";

/** What a sandbox of ours consists of on the host, and how its processes are known. */
const COMPONENTS: Readonly<Record<string, (commandLine: string) => boolean>> = {
  shim: (line) => line.startsWith("caisson-shim"),
  QEMU: (line) => line.includes("qemu-system"),
  virtiofsd: (line) => line.includes("virtiofsd"),
  "vsock backend": (line) => line.includes("vhost-device-vsock"),
};

/** Proportional set size (Documentation/filesystems/proc.rst, smaps_rollup); 0 for a process that has gone. */
export function pssMiB(pid: number): number {
  try {
    return (
      Number(/^Pss: +(\d+) kB/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, "utf8"))?.[1] ?? 0) / 1024
    );
  } catch {
    return 0;
  }
}

/** PSS of all sandboxes of `world` by component, MiB. */
export function sandboxMemory(world: World): ReadonlyMap<string, number> {
  const processes = world.processes();
  return new Map(
    Object.entries(COMPONENTS).map(([name, matches]) => [
      name,
      sumPss(processes.filter((it) => matches(it.commandLine))),
    ]),
  );
}

/** PSS of everything in `world` whose command line matches, MiB. */
export function memoryOf(world: World, matches: (commandLine: string) => boolean): number {
  return sumPss(world.processes().filter((it) => matches(it.commandLine)));
}

const sumPss = (processes: readonly { readonly pid: number }[]): number =>
  processes.reduce((sum, { pid }) => sum + pssMiB(pid), 0);
