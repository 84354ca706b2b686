/** What is known of a host that was started: written before anything is made that somebody would have to remove. */
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { errnoOf } from "../../src/base/errors.ts";
import { findProcesses, isSameProcess, processStartTime } from "../../src/persist/proc.ts";
import { placesOf, RUN_PREFIX } from "./places.ts";

export interface HostRecord {
  /** The process that starts the host. */
  readonly starter: { readonly pid: number; readonly startTime: string };
  /** Directory for sockets, outside the host's own for the sake of their paths' length. It need not exist yet. */
  readonly sockets: string;
}

/** One whose QEMU has been started. */
export interface StartedRecord extends HostRecord {
  readonly pid: number;
  readonly startTime: string;
  /** From when QEMU has told it. */
  readonly sshPort?: number;
}

/** A directory that is being made has this name, with the pid and the start time of its maker. */
const NEW_DIR = /^new-(\d+)-(\d+)$/;

const recordFile = (dir: string) => join(dir, "record.json");

/** Makes `dir` with its record in it, all at once. @throws when there is such a directory */
export function makeRunDir(dir: string, sockets: string): HostRecord {
  const starter = { pid: process.pid, startTime: processStartTime(process.pid) ?? "" };
  const record: HostRecord = { starter, sockets };
  const making = join(dir, "..", `new-${starter.pid}-${starter.startTime}`);
  mkdirSync(making);
  try {
    writeFileSync(recordFile(making), JSON.stringify(record));
    renameSync(making, dir);
  } catch (error) {
    rmSync(making, { recursive: true, force: true });
    if (!["ENOTEMPTY", "EEXIST"].includes(errnoOf(error) ?? "")) throw error;
    throw new Error(`another host is being started in ${dir}`, { cause: error });
  }
  return record;
}

/** Writes the record anew; a reader sees the old one or the new one. */
export function writeRecord(dir: string, record: HostRecord): void {
  const file = recordFile(dir);
  writeFileSync(`${file}.new`, JSON.stringify(record));
  renameSync(`${file}.new`, file);
}

export function readRecord(dir: string): HostRecord | StartedRecord | undefined {
  try {
    return JSON.parse(readFileSync(recordFile(dir), "utf8")) as HostRecord | StartedRecord;
  } catch (error) {
    // There is none, or another process is just removing it.
    if (errnoOf(error) === "ENOENT") return undefined;
    throw error;
  }
}

export const isStarted = (record: HostRecord | StartedRecord): record is StartedRecord => "pid" in record;

/** Removes the directories of a host, whose QEMU has ended. */
export function removeRun(dir: string, { sockets }: HostRecord): void {
  rmSync(sockets, { recursive: true, force: true });
  rmSync(dir, { recursive: true, force: true });
}

/** Removes what hosts left that were killed together with those who would have stopped them, or while they were started. */
export function removeDead(variant: string): void {
  const { dir } = placesOf(variant);
  for (const name of readdirSync(dir)) {
    const path = join(dir, name);
    const [, pid, startTime] = NEW_DIR.exec(name) ?? [];
    if (startTime !== undefined && !isSameProcess(Number(pid), startTime)) rmSync(path, { recursive: true });
    if (!name.startsWith(RUN_PREFIX)) continue;
    const record = readRecord(path);
    if (record === undefined) {
      // It is being removed, or was made when records came later.
      rmSync(path, { recursive: true, force: true });
      continue;
    }
    const owner = isStarted(record) ? record : record.starter;
    if (isSameProcess(owner.pid, owner.startTime)) continue;
    if (!isStarted(record)) endUnrecorded(record);
    removeRun(path, record);
  }
}

/** Kills a QEMU whose starter was killed before it wrote the pid down. */
function endUnrecorded({ sockets }: HostRecord): void {
  const socket = `unix:${join(sockets, "qmp")},`;
  for (const { pid } of findProcesses((words) => words.some((word) => word.startsWith(socket))))
    process.kill(pid, "SIGKILL");
}
