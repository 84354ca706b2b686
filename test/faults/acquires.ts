/** What a sandbox acquires, by the names of the undo steps; after each there is a fail point (src/base/failpoint.ts). */

/** How a container must be run to get there: as any, with a volume, with a logging binary. */
export type Way = "any" | "volume" | "logger";

export interface Acquire {
  readonly name: string;
  readonly way: Way;
  /** Passages in one run; 1 when absent. */
  readonly times?: number;
}

/** Those that the matrix lets fail. */
export const acquires: readonly Acquire[] = [
  { name: "journal", way: "any" },
  { name: "run directory", way: "any" },
  { name: "cgroup", way: "any" },
  { name: "shared tree", way: "any", times: 2 },
  { name: "mount", way: "any", times: 4 },
  { name: "console sessions", way: "any" },
  { name: "control connections", way: "any" },
  { name: "socket", way: "any" },
  { name: "last event", way: "any" },
  { name: "virtiofsd", way: "any", times: 2 },
  { name: "shared file systems", way: "any" },
  { name: "hello listener", way: "any" },
  { name: "directory watch", way: "any" },
  { name: "vsock backend", way: "any" },
  { name: "vsock", way: "any" },
  { name: "wiring", way: "any" },
  { name: "network namespace", way: "any" },
  { name: "network", way: "any" },
  { name: "vm ahead of its parts", way: "any" },
  { name: "vm", way: "any" },
  { name: "sentinel", way: "any" },
  { name: "agent", way: "any" },
  { name: "connections from the namespace's localhost", way: "any" },
  { name: "following the pod's network", way: "any" },
  { name: "pending work", way: "any" },
  { name: "network service", way: "any" },
  { name: "directory of", way: "any" },
  { name: "root file system", way: "any" },
  { name: "volume", way: "volume", times: 2 },
  { name: "volumes", way: "volume" },
  { name: "room", way: "any" },
  { name: "cpus of the host", way: "any" },
  { name: "pipes", way: "logger" },
  { name: "logging binary", way: "logger" },
];

/** Those without a cell: the test that lets them fail, or why none does. Each has its fail point all the same. */
export const elsewhere: Readonly<Record<string, string>> = {
  port: "memory of ours only",
  descriptor: "test/integration/hypervisor/qemu.test.ts (a NIC that is refused)",
  netdev: "test/integration/hypervisor/qemu.test.ts (a NIC that is refused)",
  "block backend": "needs a disk of the host; QEMU's end takes it along",
  backend: "needs a machine that grows; QEMU's end takes it along",
  disk: "needs a disk of the host; QEMU's end takes it along",
  "template's state": "descriptors of ours only: the machine starts its kernel without",
  "template's memory": "as the template's state",
  "guest memory": "as the template's state",
  template: "as the template's state",
  "copy of": "memory of ours only: what follows a volume ends with the guest",
};
