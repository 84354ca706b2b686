/** Loads what a boot imports when it comes to it, for a snapshot of the heap that is taken then (scripts/code-cache.mjs). */
import { loadSupervisor } from "../hypervisor/child-process.ts";

export async function preload(): Promise<void> {
  await Promise.all([
    loadSupervisor(),
    import("smol-toml"),
    import("../resources/net/index.ts"),
    import("../runtime/machine-network.ts"),
  ]);
}
