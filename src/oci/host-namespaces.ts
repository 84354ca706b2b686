/** A pod that wants to live in the host's own namespaces cannot be a virtual machine: refused before anything starts. */
import { SandboxError } from "../base/errors.ts";
import type { OciSpec } from "./spec.ts";

/** What the spec of a pod lacks when it shall share the host's, and how Kubernetes calls that. */
const SHARED_BY_ABSENCE = [
  { type: "network", setting: "hostNetwork", what: "network", ctr: " (ctr: without --net-host)" },
  { type: "pid", setting: "hostPID", what: "processes", ctr: "" },
  { type: "ipc", setting: "hostIPC", what: "shared memory and message queues", ctr: "" },
] as const;

/** @throws ERR_UNSUPPORTED naming the setting. */
export function refuseHostNamespaces(spec: OciSpec): void {
  const own = new Set((spec.linux?.namespaces ?? []).map(({ type }) => type));
  for (const { type, setting, what, ctr } of SHARED_BY_ABSENCE) {
    if (own.has(type)) continue;
    throw new SandboxError(
      "ERR_UNSUPPORTED",
      `the host's ${what} cannot be shared with a virtual machine; run the pod without ${setting}${ctr}`,
    );
  }
}
