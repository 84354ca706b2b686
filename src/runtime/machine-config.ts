/** The machine that a configuration describes, without what belongs to one pod: what a template and its pods have in common. */
import type { Config, ResolvedPaths } from "../config/index.ts";
import type { Accel, VmConfig } from "../hypervisor/hypervisor.ts";
import { findQboot } from "../hypervisor/qemu/firmware.ts";
import type { MachineSize } from "./sizing.ts";

export interface MachineConfigInit {
  readonly config: Config;
  readonly paths: ResolvedPaths;
  readonly accel: Accel;
  readonly size: MachineSize;
  readonly maxSize: MachineSize;
}

export type MachineConfig = Omit<VmConfig, "name" | "runDir" | "nics">;

/** @param tscKhz frequency of the time stamp counter that an emulated guest is told */
export function machineConfig(init: MachineConfigInit, tscKhz: number | undefined): MachineConfig {
  const { paths, size, maxSize } = init;
  const { hypervisor } = init.config;
  return {
    accel: init.accel,
    cpus: size.cpus,
    maxCpus: maxSize.cpus,
    memoryMiB: size.memoryMiB,
    maxMemoryMiB: maxSize.memoryMiB,
    hugepages: hypervisor.enableHugepages,
    preallocate: hypervisor.enableMemPrealloc,
    kernel: paths.kernel,
    initrd: paths.initrd,
    firmware: hypervisor.firmware === "" ? findQboot(paths.qemu) : paths.firmware,
    kernelParams: hypervisor.kernelParams.split(" ").filter((word) => word !== ""),
    tracefs: hypervisor.guestTracefs,
    tscKhz,
    verboseConsole: hypervisor.enableDebug,
    cpuFeatures: hypervisor.cpuFeatures,
    machineOptions: hypervisor.machineAccelerators,
    rootPorts: hypervisor.pcieRootPort,
    reclaimFreedMemory: hypervisor.reclaimGuestFreedMemory,
    seccomp: hypervisor.seccompsandbox,
  };
}
