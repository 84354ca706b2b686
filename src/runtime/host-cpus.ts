/**
 * On which cpus of the host a sandbox runs, and with what weight. Its vCPUs are threads that all containers share, so the
 * sandbox has the cpus of all its containers together; those of a container that names none are not added, for that one
 * is content with any. A weight is set only for a container without a pod: the pod's own is the kubelet's business.
 */
import { unionOf } from "../base/cpu-list.ts";
import type { OciResources } from "../oci/spec.ts";

type OciCpu = NonNullable<OciResources["cpu"]>;

export interface HostCpusInit {
  /** Whether the sandbox is one container without a pod. */
  readonly single: boolean;
  /** Takes the cpus and memory nodes ("0-3,8"); empty for those of the cgroup above. */
  limitCpuset(cpuset: { readonly cpus: string; readonly mems: string }): void;
  setShares(shares: number): void;
}

export class HostCpus {
  readonly #init: HostCpusInit;
  readonly #containers = new Map<string, OciCpu>();
  #applied = { cpus: "", mems: "" };

  /** @param applied what the sandbox has from its start. */
  constructor(init: HostCpusInit, applied: { readonly cpus: string; readonly mems: string }) {
    this.#init = init;
    this.#applied = { cpus: unionOf([applied.cpus]), mems: unionOf([applied.mems]) };
  }

  /** A new container, or a change of one: what it does not name stays. */
  set(id: string, cpu: OciCpu | null | undefined): void {
    const named = Object.entries(cpu ?? {}).filter(([, value]) => value);
    const merged: OciCpu = { ...this.#containers.get(id), ...Object.fromEntries(named) };
    this.#containers.set(id, merged);
    this.#apply();
    if (this.#init.single && cpu?.shares) this.#init.setShares(cpu.shares);
  }

  remove(id: string): void {
    if (this.#containers.delete(id)) this.#apply();
  }

  #apply(): void {
    const all = [...this.#containers.values()];
    const cpuset = { cpus: unionOf(all.map(({ cpus }) => cpus)), mems: unionOf(all.map(({ mems }) => mems)) };
    if (cpuset.cpus === this.#applied.cpus && cpuset.mems === this.#applied.mems) return;
    this.#applied = cpuset;
    this.#init.limitCpuset(cpuset);
  }
}
