/**
 * Device rules of the spec as an eBPF program on the container's cgroup, the way of cgroup v2
 * (Documentation/admin-guide/cgroup-v2.rst "Device controller", bpf_cgroup_dev_ctx of linux/bpf.h).
 */
import * as sys from "sys";
import { SandboxError } from "../../../src/base/errors.ts";
import type { Log } from "../../../src/base/log.ts";
import { sysCode } from "../linux.ts";
import type { Cgroup } from "./cgroup.ts";
import { allowsEverything, assembleDeviceFilter } from "./device-program.ts";
import type { DeviceRule } from "./oci-spec.ts";

/** The program that is attached now. */
export interface DeviceFilter {
  readonly program: number;
  close(): void;
}

/** No number, and what v1 writes as "*". */
const ANY = -1;

/**
 * What every container may use (OCI config-linux.md "Default Devices", the console and its terminals), and mknod of
 * anything: having a node is not being allowed to open it.
 */
const ALWAYS_ALLOWED: readonly DeviceRule[] = [
  { allow: true, type: "c", major: ANY, minor: ANY, access: "m" },
  { allow: true, type: "b", major: ANY, minor: ANY, access: "m" },
  ...[
    [1, 3],
    [1, 5],
    [1, 7],
    [1, 8],
    [1, 9],
    [5, 0],
    [5, 2],
    [136, ANY],
  ].map(([major, minor]) => ({ allow: true, type: "c", major, minor, access: "rwm" })),
];

/**
 * Attaches the rules to the cgroup in place of `present`; returns what is attached then, which the caller closes.
 * A spec without rules, or one that allows everything in the end, needs no program.
 * @throws ERR_HOST when the kernel refuses the program.
 */
export function applyDeviceRules(
  cgroup: Cgroup,
  rules: readonly DeviceRule[],
  present: DeviceFilter | undefined,
  log: Log,
): DeviceFilter | undefined {
  if (present === undefined && allowsEverything(rules)) return undefined;
  let program: number;
  try {
    program = sys.bpfLoadDeviceFilter(assembleDeviceFilter([...rules, ...ALWAYS_ALLOWED]));
  } catch (error) {
    if (sysCode(error) !== "ENOSYS") throw refused(error);
    log.warn({}, "the kernel has no eBPF: device rules are not enforced");
    return present;
  }
  const directory = cgroup.open();
  try {
    sys.bpfAttachDeviceFilter(program, directory, present?.program ?? -1);
  } catch (error) {
    sys.close(program);
    throw refused(error);
  } finally {
    sys.close(directory);
  }
  present?.close();
  return { program, close: () => sys.close(program) };
}

function refused(cause: unknown): SandboxError {
  return new SandboxError(
    "ERR_HOST",
    "linux.resources.devices: the guest's kernel refused the device filter",
    { cause },
  );
}
