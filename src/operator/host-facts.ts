/** The host: kernel, distribution, processor, memory, devices. */
import fs from "node:fs";
import os from "node:os";
import { errnoOf } from "../base/errors.ts";
import { hostCpuCount } from "../base/host-cpu-count.ts";

export interface HostFacts {
  readonly kernel: string;
  readonly architecture: string;
  readonly distro: { readonly name: string; readonly version: string; readonly like: readonly string[] };
  readonly cpu: { readonly vendor: string; readonly model: string; readonly count: number };
  readonly memory: { readonly totalBytes: number; readonly availableBytes: number };
  /** "v2", "v1" or "hybrid". */
  readonly cgroups: string;
}

export function hostFacts(): HostFacts {
  const release = osRelease(readQuietly("/etc/os-release"));
  const cpu = readQuietly("/proc/cpuinfo");
  const memory = readQuietly("/proc/meminfo");
  return {
    kernel: os.release(),
    architecture: os.machine(),
    distro: {
      name: release.NAME ?? "unknown",
      version: release.VERSION_ID ?? release.VERSION_CODENAME ?? "unknown",
      like: [release.ID ?? "", ...(release.ID_LIKE ?? "").split(" ")].filter((id) => id !== ""),
    },
    cpu: {
      vendor: cpuField(cpu, "vendor_id"),
      model: cpuField(cpu, "model name"),
      count: hostCpuCount(),
    },
    memory: {
      totalBytes: memoryField(memory, "MemTotal"),
      availableBytes: memoryField(memory, "MemAvailable"),
    },
    cgroups: cgroupLayout(),
  };
}

/** Name and value of each line of os-release(5). Pure. */
export function osRelease(text: string): Readonly<Record<string, string | undefined>> {
  const entries = text.split("\n").flatMap((line) => {
    const found = /^([A-Z_]+)=(?:"(.*)"|'(.*)'|(.*))$/.exec(line);
    return found?.[1] === undefined ? [] : [[found[1], found[2] ?? found[3] ?? found[4] ?? ""] as const];
  });
  return Object.fromEntries(entries);
}

function cpuField(text: string, name: string): string {
  return new RegExp(`^${name}\\s*: (.*)$`, "m").exec(text)?.[1] ?? "unknown";
}

function memoryField(text: string, name: string): number {
  return Number(new RegExp(`^${name}:\\s+(\\d+) kB`, "m").exec(text)?.[1] ?? 0) * 1024;
}

function cgroupLayout(): string {
  if (fs.existsSync("/sys/fs/cgroup/cgroup.controllers")) return "v2";
  return fs.existsSync("/sys/fs/cgroup/unified/cgroup.controllers") ? "hybrid" : "v1";
}

/** Undefined when the device can be opened for reading and writing, else the errno. */
export function deviceProblem(path: string): string | undefined {
  try {
    fs.closeSync(fs.openSync(path, "r+"));
    return undefined;
  } catch (error) {
    return errnoOf(error) ?? String(error);
  }
}

export function readQuietly(path: string): string {
  try {
    return fs.readFileSync(path, "utf8");
  } catch {
    return "";
  }
}
