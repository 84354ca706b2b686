/**
 * With what size a sandbox's machine starts. One that its pod's limits make larger than the base goes on from the template of the base where there
 * is one, and grows when its containers come: that takes less time than a kernel's start.
 */
import { type MachineConfigInit, machineConfig } from "./machine-config.ts";
import { growthLimits, type MachineSize, type SizeLimits, sizeFor } from "./sizing.ts";
import { findTemplate } from "./template.ts";

/** @param wanted what the pod may use */
export function startSize(
  init: Pick<MachineConfigInit, "config" | "paths" | "accel">,
  wanted: MachineSize,
  limits: SizeLimits,
): MachineSize {
  const base = sizeFor([], limits);
  if (wanted.cpus === base.cpus && wanted.memoryMiB === base.memoryMiB) return wanted;
  // An emulated machine runs vCPUs that are plugged in one thread of the host (qemu/argv.ts).
  if (init.accel === "tcg" && wanted.cpus > base.cpus) return wanted;
  const { maxCpus, maxMemoryMiB } = growthLimits(base, limits);
  const maxSize = { cpus: maxCpus, memoryMiB: maxMemoryMiB };
  const machine = machineConfig({ ...init, size: base, maxSize }, undefined);
  return findTemplate(init.config, machine, init.paths.qemu) === undefined ? wanted : base;
}
