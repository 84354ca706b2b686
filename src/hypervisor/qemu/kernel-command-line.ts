/** The guest kernel's command line. */
import type { VmConfig } from "../hypervisor.ts";

/**
 * Always given. Measured: cryptomgr.notests alone removes two thirds of a boot's instructions; the usual further tuning
 * (mitigations=off, nokaslr, lpj=, audit=0, lsm=) gains nothing and is left out. The names are those of the kernel's
 * Documentation/admin-guide/kernel-parameters.txt.
 */
const base: readonly string[] = [
  "console=ttyS0",
  // Reboot at once after a panic; with -no-reboot QEMU then exits, which the shim sees.
  "panic=-1",
  "reboot=t",
  "cryptomgr.notests",
  // The hypervisor's clock is trusted: no watchdog that would throw the TSC out, no timer interrupt check.
  "tsc=reliable",
  "no_timer_check",
  "rcupdate.rcu_expedited=1",
  "random.trust_cpu=on",
  // One serial port: the others are probed for nothing.
  "8250.nr_uarts=1",
  // A virtual link saves no power, and is not configured for it each time that a device is plugged.
  "pcie_aspm=off",
  // virtio needs no bounce buffer. A kernel that may be given memory above 4 GiB would set 64 MiB aside for one.
  "swiotlb=noforce",
  // All controllers stay with the one hierarchy that the agent mounts.
  "cgroup_no_v1=all",
];

/**
 * Initial calls of the kernel that only make files for whoever debugs the kernel, and how much memory a guest keeps for
 * them (docs/decisions/0018-guest-memory.md). A name that a kernel does not have is passed over by it.
 */
const TRACEFS = "tracer_init_tracefs";
const SLAB_SYSFS = "slab_sysfs_init";

/** Parameters in order; the last of equal keys wins in the kernel, so the configuration's come last. */
export function kernelCommandLine(
  config: Pick<
    VmConfig,
    "kernelParams" | "verboseConsole" | "memoryMiB" | "maxMemoryMiB" | "tracefs" | "tscKhz"
  >,
): string {
  const params = [...base];
  params.push(`initcall_blacklist=${config.tracefs === true ? SLAB_SYSFS : `${TRACEFS},${SLAB_SYSFS}`}`);
  if (config.verboseConsole !== true) params.push("quiet");
  // An emulated guest would measure it against a timer, and on a busy host get it wrong by a factor: its clock would run
  // that much too fast for as long as it lives.
  if (config.tscKhz !== undefined) params.push(`tsc_early_khz=${config.tscKhz}`);
  // Memory plugged later is used at once, also by kernels that leave that to user space by default.
  if (config.maxMemoryMiB > config.memoryMiB) params.push("memhp_default_state=online");
  return [...params, ...config.kernelParams].join(" ");
}
