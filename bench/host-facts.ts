/** What a measurement depends on. */
import { readFileSync } from "node:fs";
import { cpus, loadavg, totalmem } from "node:os";
import { detectAccel } from "../src/hypervisor/accel.ts";
import { runOk } from "../test/harness/run.ts";
import { guestKernelRelease } from "./guest-kernel.ts";

export type HostFacts = Readonly<Record<string, string | number>>;

async function firstLine(...argv: string[]): Promise<string> {
  return (await runOk(argv)).stdout.split("\n")[0] ?? "";
}

export async function hostFacts(): Promise<HostFacts> {
  const release = readFileSync("/etc/os-release", "utf8").match(/^PRETTY_NAME="(.*)"$/m)?.[1] ?? "unknown";
  return {
    system: release,
    kernel: readFileSync("/proc/sys/kernel/osrelease", "utf8").trim(),
    cpu: cpus()[0]?.model ?? "unknown",
    cpus: cpus().length,
    memoryMiB: Math.round(totalmem() / 1024 / 1024),
    node: process.version,
    qemu: await firstLine("qemu-system-x86_64", "--version"),
    containerd: await firstLine("containerd", "--version"),
    accel: detectAccel().accel,
    guestKernel: guestKernelRelease(),
    // Of the last minute: what else the machine does moves times.
    load: Number((loadavg()[0] ?? 0).toFixed(1)),
    commit: await firstLine("git", "rev-parse", "--short", "HEAD").catch(() => "unknown"),
  };
}
