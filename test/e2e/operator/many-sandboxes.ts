/** Made-up figures of many sandboxes, in every state there is: for how the status page looks. */
import { create } from "@bufbuild/protobuf";
import { StatsResponseSchema, StatusResponseSchema } from "../../../src/gen/caisson/control/v1/control_pb.ts";
import type { SandboxSnapshot } from "../../../src/operator/monitor/collector.ts";
import { sandboxPaths } from "../../../src/persist/run-dir.ts";

const MIB = 1 << 20;
const NAMES = [
  "web-7f9c4b6d8-x2k4q",
  "postgres-0",
  "coredns-5d78c9869d-8jw2n",
  "<script>alert(1)</script>",
  "job",
];

/** `count` sandboxes; of each dozen one is an orphan, one failed, one does not answer and one boots. */
export function manySandboxes(count: number): SandboxSnapshot[] {
  return Array.from({ length: count }, (_, index) => sandbox(index));
}

function sandbox(index: number): SandboxSnapshot {
  const kind = index % 12;
  const owned = kind !== 1;
  const up = owned && kind !== 7;
  const guestUp = up && kind !== 4 && kind !== 9;
  const state = kind === 4 ? "failed" : kind === 9 ? "booting" : "running";
  const id = `${(index * 2654435761 + 1).toString(16)}e41f0c9b7a5d3e2f`;
  const dir = `/run/caisson/${id}`;
  const hello = 900 + ((index * 137) % 900);
  const steps = kind === 9 ? [60, 85] : [60 + (index % 7) * 10, 90 + (index % 7) * 11, hello, hello + 120];
  const names = ["prepared", "launched", "hello", "ready"];
  const stats = create(StatsResponseSchema, {
    state,
    bootSteps: steps.map((milliseconds, step) => ({ name: names[step] ?? "", milliseconds })),
    containers: Array.from({ length: kind % 4 }, (_, container) => ({ id: `c${container}` })),
    ...(guestUp && {
      guest: {
        memoryTotalBytes: BigInt(480 * MIB),
        memoryAvailableBytes: BigInt((430 - ((index * 31) % 300)) * MIB),
        kernelRelease: "6.1.0-37-cloud-amd64",
      },
    }),
    calls: [{ method: "Create", count: 2n, failed: BigInt(kind === 4 ? 1 : 0), seconds: 3 }],
  });
  const status = create(StatusResponseSchema, {
    sandboxId: id,
    state,
    failure: kind === 4 ? "the guest said no hello within 60000 ms" : "",
    ...(guestUp && { guest: { kernelRelease: "6.1.0-37-cloud-amd64", agentVersion: "0.1.0" } }),
  });
  return {
    record: {
      id,
      dir,
      paths: sandboxPaths(dir),
      namespace: "k8s.io",
      facts: {
        ...(kind !== 6 && { pod: NAMES[index % NAMES.length] ?? "", podNamespace: "default" }),
        cpus: 1 + (index % 4),
        memoryMiB: 512 * (1 + (index % 3)),
        accel: index % 2 === 0 ? "kvm" : "tcg",
        startedAtMs: Date.now() - index * 397_000,
      },
      processes: [],
      owned,
    },
    ...(owned ? { status, stats } : { status: undefined, stats: undefined }),
    seen: true,
    up,
    guestUp,
    askedAtMs: owned ? performance.now() - index * 100 : undefined,
    guestAskedAtMs: owned ? performance.now() - index * 100 : undefined,
    processes: new Map(),
    memory: new Map([
      ["qemu", (90 + ((index * 53) % 260)) * MIB],
      ["shim", 25 * MIB],
      ["virtiofsd", 4 * MIB],
      ["vsock", 3 * MIB],
    ]),
  };
}
