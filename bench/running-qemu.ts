/** The QEMU that runs in a world. */
import { readFileSync } from "node:fs";
import { type TestHost, WITHOUT_TEMPLATE } from "../test/harness/test-host.ts";
import type { World } from "../test/harness/world.ts";

/** @throws when there is none. */
export function runningQemu(world: World): { readonly pid: number; readonly argv: readonly string[] } {
  const qemu = world.processes().find(({ commandLine }) => commandLine.includes("qemu-system"));
  if (qemu === undefined) throw new Error("no QEMU runs");
  const argv = readFileSync(`/proc/${qemu.pid}/cmdline`, "utf8").split("\0").slice(0, -1);
  return { pid: qemu.pid, argv };
}

/** The command line of a QEMU that starts its kernel. Nothing else may run on `host`. */
export async function kernelCommand(host: TestHost): Promise<readonly string[]> {
  host.configure(WITHOUT_TEMPLATE);
  const id = await host.runDetached(["sleep", "10000"]);
  const { argv } = runningQemu(host.world);
  await host.remove(id);
  host.configure();
  return argv;
}
