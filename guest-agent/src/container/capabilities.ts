/** Capability sets of a process. */
import * as sys from "sys";
import { SandboxError } from "../../../src/base/errors.ts";
import { sysCode } from "../linux.ts";
import { type CapabilitySets, has } from "./capability-sets.ts";
import { PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, PR_CAP_AMBIENT_RAISE } from "./kernel.ts";

/** More than any kernel has. */
const MAX_CAPABILITIES = 64;

/** Makes all that is permitted effective; used between the change of user and applyCapabilities. */
export function raisePermitted(): void {
  const [, permitted, inheritable] = sys.capget();
  sys.capset(permitted, permitted, inheritable);
}

/**
 * Sets effective, permitted, inheritable and ambient.
 * @throws ERR_START_PROCESS when the agent lacks what is asked for.
 */
export function applyCapabilities(sets: CapabilitySets): void {
  try {
    // Bits that the kernel does not know are ignored by it.
    sys.capset(sets.effective, sets.permitted, sets.inheritable);
  } catch (error) {
    throw new SandboxError("ERR_START_PROCESS", "cannot set the capabilities of the process", {
      cause: error,
    });
  }
  sys.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  for (let number = 0; number < MAX_CAPABILITIES; number++) {
    if (!has(sets.ambient, number)) continue;
    try {
      sys.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number, 0, 0);
    } catch (error) {
      // Not permitted or not inheritable: the kernel's rule for ambient capabilities, not a reason to fail.
      const code = sysCode(error);
      if (code !== "EPERM" && code !== "EINVAL") throw error;
    }
  }
}
