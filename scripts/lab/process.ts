/** QEMU's process of a host: its sockets and disk made, started from nothing or from the saved host. */
import { execFileSync, spawn } from "node:child_process";
import { closeSync, mkdirSync, openSync } from "node:fs";
import { join } from "node:path";
import { processStartTime } from "../../src/persist/proc.ts";
import type { Places } from "./places.ts";
import { hostArguments, type Memory, type Qemu } from "./qemu.ts";
import { type HostRecord, type StartedRecord, writeRecord } from "./record.ts";
import { ENDS_WITH_US } from "./steps.ts";

/** What the host begins as: a boot, a boot whose end is to be saved, or the saved host. */
export type Beginning = "boot" | "boot-to-save" | "saved";

export interface ProcessInit {
  readonly qemu: Qemu;
  readonly places: Places;
  /** Directory for what this host writes, with `record` in it. */
  readonly dir: string;
  readonly record: HostRecord;
  readonly beginning: Beginning;
  /** Goes on after this process has ended; else it ends with it. */
  readonly detached: boolean;
}

export const diskFile = (dir: string) => join(dir, "disk.qcow2");
/** The memory of a host that is to be saved. */
export const memoryFile = (dir: string) => join(dir, "memory");
export const consoleFile = (dir: string) => join(dir, "console.log");
export const qemuLog = (dir: string) => join(dir, "qemu.log");

/** Starts QEMU and writes its pid down. What is made is removed with the record. */
export function startQemu({ qemu, places, dir, record, beginning, detached }: ProcessInit): StartedRecord {
  const { sockets } = record;
  mkdirSync(sockets, { mode: 0o700 });
  const disk = diskFile(dir);
  const [below, format] = beginning === "saved" ? [places.snapshot.disk, "qcow2"] : [places.disk, "raw"];
  const [image = "", ...imageArguments] = qemu.image;
  const create = ["create", "-q", "-f", "qcow2", "-b", below, "-F", format, disk];
  execFileSync(image, [...imageArguments, ...create]);
  const args = hostArguments({
    places,
    disk,
    sockets,
    console: consoleFile(dir),
    memory: memoryOf(beginning, places, dir),
    incoming: beginning === "saved",
  });
  const pid = spawnQemu(qemu, args, qemuLog(dir), detached);
  const started: StartedRecord = { ...record, pid, startTime: processStartTime(pid) ?? "" };
  writeRecord(dir, started);
  return started;
}

function memoryOf(beginning: Beginning, places: Places, dir: string): Memory {
  if (beginning === "boot-to-save") return { file: memoryFile(dir), shared: true };
  return beginning === "saved" ? { file: places.snapshot.memory, shared: false } : {};
}

/** @returns the pid. Unless `detached` it ends with this process, however that ends. */
function spawnQemu(qemu: Qemu, args: readonly string[], log: string, detached: boolean): number {
  const fd = openSync(log, "w");
  const argv = [...(detached ? [] : ENDS_WITH_US), ...qemu.system, ...args];
  try {
    const child = spawn(argv[0] ?? "", argv.slice(1), { stdio: ["ignore", fd, fd], detached });
    child.on("error", () => undefined); // the pid is then undefined
    if (child.pid === undefined) throw new Error(`${argv[0]} cannot be started`);
    if (detached) child.unref();
    return child.pid;
  } finally {
    closeSync(fd);
  }
}
