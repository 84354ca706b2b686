/** The QEMU that runs in a world. */
import { readFileSync } from "node:fs";
import type { World } from "../test/harness/world.ts";

/** @throws when there is none. */
export function runningQemu(world: World): { readonly pid: number; readonly argv: readonly string[] } {
  const qemu = world.processes().find(({ commandLine }) => commandLine.includes("qemu-system"));
  if (qemu === undefined) throw new Error("no QEMU runs");
  const argv = readFileSync(`/proc/${qemu.pid}/cmdline`, "utf8").split("\0").slice(0, -1);
  return { pid: qemu.pid, argv };
}
