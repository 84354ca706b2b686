/** What a guest says of its memory, and its agent of its own. */

/**
 * MiB by what they are, from the guest's /proc/meminfo. "used" is the column of that name that `free` of procps 3 prints:
 * neither free nor cache, and is what the budget of docs/SPECIFICATION.md is about. "not free" has the caches too, and
 * with them the root file system, which is memory.
 * @throws when a line is missing.
 */
export function guestMemory(meminfo: string): readonly (readonly [name: string, mib: number])[] {
  const mib = (name: string): number => meminfoMiB(meminfo, name);
  const notFree = mib("MemTotal") - mib("MemFree");
  return [
    ["used", notFree - mib("Buffers") - mib("Cached") - mib("SReclaimable")],
    ["not free", notFree],
    ["slab", mib("Slab")],
    ["total", mib("MemTotal")],
  ];
}

/** A line of /proc/meminfo in MiB. @throws when it is missing */
export function meminfoMiB(meminfo: string, name: string): number {
  const kib = new RegExp(`^${name}: +(\\d+) kB$`, "m").exec(meminfo)?.[1];
  if (kib === undefined) throw new Error(`/proc/meminfo has no ${name}:\n${meminfo}`);
  return Number(kib) / 1024;
}

/**
 * MiB that the agent has resident, by its own account (GuestInfo): containers do not see its /proc.
 * @param stats what `shim stats --once --json` printed of one sandbox
 * @throws when the guest did not answer
 */
export function agentRssMiB(stats: string): number {
  const [sandbox] = JSON.parse(stats) as {
    guest: { agentRssBytes: number } | null;
    problem: string | null;
  }[];
  if (sandbox?.guest == null) throw new Error(`no figures of the guest: ${sandbox?.problem ?? "no sandbox"}`);
  return sandbox.guest.agentRssBytes / 2 ** 20;
}
