/** What the processes of a sandbox take from the host, from /proc. */
import fs from "node:fs";
import type { SandboxProcess } from "./sandbox-record.ts";

export interface ProcessUsage {
  /** CPU time used so far, seconds. */
  readonly cpuSeconds: number;
  readonly rssBytes: number;
  readonly threads: number;
  /** Bytes read and written by system calls (proc_pid_io(5), rchar and wchar). */
  readonly readBytes: number;
  readonly writtenBytes: number;
}

/** USER_HZ, fixed at 100 for user space on Linux (include/uapi/asm-generic/param.h). */
const TICKS_PER_SECOND = 100;
/** Of x86-64, the only architecture there is. */
const PAGE_BYTES = 4096;
/** Of st_blocks (stat(2)). */
const BLOCK_BYTES = 512;

/** A component by the name of its process: short, for tables and metrics. */
export function componentName(process: string): string {
  return process === "vhost-device-vsock" ? "vsock" : process;
}

/** Undefined when it has ended. */
export function processUsage(pid: number): ProcessUsage | undefined {
  try {
    const stat = fs.readFileSync(`/proc/${pid}/stat`, "latin1");
    // `fields` begins with the third of proc_pid_stat(5).
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    const field = (number: number) => Number(fields[number - 3]);
    const io = readQuietly(`/proc/${pid}/io`);
    return {
      cpuSeconds: (field(14) + field(15)) / TICKS_PER_SECOND,
      rssBytes: field(24) * PAGE_BYTES,
      threads: field(20),
      readBytes: keyNumber(io, "rchar"),
      writtenBytes: keyNumber(io, "wchar"),
    };
  } catch {
    return undefined;
  }
}

/**
 * `processes` and what descends from them, each by the name of its component: a virtiofsd works in a child, which is in
 * a pid namespace of its own. Nothing is added of the shim, whose children are components themselves or programs that
 * take a container's output. Pids are those of this moment: ask again rather than keep them. Some 0.2 to 0.4 ms for a sandbox.
 */
export function withDescendants(processes: readonly SandboxProcess[]): SandboxProcess[] {
  return processes.flatMap((process) => {
    const found = [process];
    if (process.name === "shim") return found;
    // The list grows while it is walked.
    for (const { pid } of found) found.push(...childrenOf(pid).map((child) => ({ ...process, pid: child })));
    return found;
  });
}

/** Children are those of the thread that made them (proc_tid_children(5)). None when it has ended. */
function childrenOf(pid: number): number[] {
  try {
    return fs
      .readdirSync(`/proc/${pid}/task`)
      .flatMap((thread) => readQuietly(`/proc/${pid}/task/${thread}/children`).match(/\d+/g) ?? [])
      .map(Number);
  } catch {
    return [];
  }
}

/** By component: what those of its processes that run take together. */
export function usageByComponent(processes: readonly SandboxProcess[]): Map<string, ProcessUsage> {
  const components = new Map<string, ProcessUsage>();
  for (const { name, pid } of withDescendants(processes)) {
    const usage = processUsage(pid);
    if (usage === undefined) continue;
    const component = componentName(name);
    const others = components.get(component);
    components.set(component, others === undefined ? usage : added(others, usage));
  }
  return components;
}

function added(one: ProcessUsage, other: ProcessUsage): ProcessUsage {
  return {
    cpuSeconds: one.cpuSeconds + other.cpuSeconds,
    rssBytes: one.rssBytes + other.rssBytes,
    threads: one.threads + other.threads,
    readBytes: one.readBytes + other.readBytes,
    writtenBytes: one.writtenBytes + other.writtenBytes,
  };
}

/** Proportional set size in bytes (Documentation/filesystems/proc.rst, smaps_rollup). */
export interface ProportionalMemory {
  readonly bytes: number;
  /** The part of it that is pages of files: programs, and in a QEMU the guest's kernel and initrd. */
  readonly fileBytes: number;
}

/** Undefined when it has ended or may not be looked into. Costs a page table walk. */
function proportionalMemory({ name, pid }: SandboxProcess): ProportionalMemory | undefined {
  try {
    const text = fs.readFileSync(`/proc/${pid}/smaps_rollup`, "latin1");
    return { bytes: proportionalBytes(name, pid, text), fileBytes: keyNumber(text, "Pss_File") * 1024 };
  } catch {
    return undefined;
  }
}

/**
 * The proportional set size of a process of a sandbox, by its smaps_rollup. That of QEMU has only those pages of its guest's memory
 * that QEMU has looked at; a guest from a template brings more (docs/decisions/0022-templates.md), which are added.
 */
export function proportionalBytes(name: string, pid: number, rollup: string): number {
  const bytes = keyNumber(rollup, "Pss") * 1024;
  if (name !== "qemu") return bytes;
  return bytes + Math.max(0, memoryFileBytes(pid) - keyNumber(rollup, "Pss_Shmem") * 1024);
}

/** Bytes that the host has taken for the memory files (memfd_create(2)) that a process has open. */
function memoryFileBytes(pid: number): number {
  const directory = `/proc/${pid}/fd`;
  const files = new Map<number, number>();
  for (const fd of fs.readdirSync(directory)) {
    const path = `${directory}/${fd}`;
    if (!linkQuietly(path).startsWith("/memfd:")) continue;
    const { ino, blocks } = fs.statSync(path);
    files.set(ino, blocks * BLOCK_BYTES);
  }
  return [...files.values()].reduce((total, bytes) => total + bytes, 0);
}

function linkQuietly(path: string): string {
  try {
    return fs.readlinkSync(path);
  } catch {
    return ""; // it was closed just now
  }
}

/** The number after "Key:" at the start of a line; 0 when there is none. Pure. */
export function keyNumber(text: string, key: string): number {
  const found = new RegExp(`^${key}:\\s+(\\d+)`, "m").exec(text);
  return Number(found?.[1] ?? 0);
}

/** By component: what those of its processes that run have together. */
export function proportionalByComponent(
  processes: readonly SandboxProcess[],
): Map<string, ProportionalMemory> {
  const components = new Map<string, ProportionalMemory>();
  for (const process of withDescendants(processes)) {
    const one = proportionalMemory(process);
    if (one === undefined) continue;
    const component = componentName(process.name);
    const { bytes, fileBytes } = components.get(component) ?? { bytes: 0, fileBytes: 0 };
    components.set(component, { bytes: bytes + one.bytes, fileBytes: fileBytes + one.fileBytes });
  }
  return components;
}

function readQuietly(path: string): string {
  try {
    return fs.readFileSync(path, "latin1");
  } catch {
    return "";
  }
}
