/** Kernel parameters of the spec. */
import * as sys from "sys";
import { SandboxError } from "../../../src/base/errors.ts";
import { O_WRONLY } from "../linux.ts";
import { sysctlPath } from "./sysctl-path.ts";

/** Writes the parameters, in the namespaces of the calling process. @throws ERR_SPEC naming the key. */
export function writeSysctls(parameters: ReadonlyMap<string, string>): void {
  for (const [key, value] of parameters) {
    try {
      sys.writeFile(sysctlPath(key), value, O_WRONLY, 0);
    } catch (error) {
      if (error instanceof SandboxError) throw error;
      throw new SandboxError("ERR_SPEC", `linux.sysctl: cannot set ${key} to "${value}" in the guest`, {
        cause: error,
      });
    }
  }
}
