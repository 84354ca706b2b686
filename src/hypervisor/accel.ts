/**
 * Can this host run a stock kernel under KVM?
 *
 * The presence of /dev/kvm proves nothing: on a host that is itself a PVM guest, `kvm_pvm` offers it, and a stock
 * kernel hangs there right after the firmware. So the vendor module has to be there and kvm_pvm must not be.
 */
import { accessSync, closeSync, openSync } from "node:fs";
import { errnoOf } from "../base/errors.ts";
import type { Accel } from "./hypervisor.ts";

/** What detectAccel looks at. */
export interface AccelProbe {
  /** Node's name of the architecture: "x64", "arm64". */
  readonly arch: string;
  /** Opens /dev/kvm for reading and writing and closes it. @throws with the errno as `code`. */
  openKvm(): void;
  /** True when /sys/module/NAME exists (also for code that is built in). */
  hasModule(name: string): boolean;
}

export interface AccelChoice {
  readonly accel: Accel;
  /** Why, in one clause, for the log and `shim env`. */
  readonly reason: string;
}

const hostProbe: AccelProbe = {
  arch: process.arch,
  openKvm: () => closeSync(openSync("/dev/kvm", "r+")),
  hasModule: (name) => {
    try {
      accessSync(`/sys/module/${name}`);
      return true;
    } catch {
      return false;
    }
  },
};

/** The accelerator for `accel = "auto"`: KVM when it can run a stock kernel, else TCG with the reason. */
export function detectAccel(probe: AccelProbe = hostProbe): AccelChoice {
  try {
    probe.openKvm();
  } catch (error) {
    const why = errnoOf(error) ?? String(error);
    return { accel: "tcg", reason: `/dev/kvm cannot be opened (${why})` };
  }
  if (probe.arch !== "x64") return { accel: "kvm", reason: "/dev/kvm can be opened" };
  if (probe.hasModule("kvm_pvm")) {
    return { accel: "tcg", reason: "/dev/kvm is offered by kvm_pvm, which cannot run a stock kernel" };
  }
  for (const module of ["kvm_intel", "kvm_amd"]) {
    if (probe.hasModule(module))
      return { accel: "kvm", reason: `/dev/kvm can be opened and ${module} is loaded` };
  }
  return { accel: "tcg", reason: "/dev/kvm exists but neither kvm_intel nor kvm_amd is loaded" };
}
