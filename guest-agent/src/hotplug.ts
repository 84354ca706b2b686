/** Brings hot-plugged CPUs and memory online and reports what the guest then has (OnlineResources). */
import * as sys from "sys";
import { describeError } from "../../src/base/errors.ts";
import type { Log } from "../../src/base/log.ts";
import { readText, writeKernelFile } from "./files.ts";
import { memoryBytes, onlineCpus } from "./guest-facts.ts";
import type { Uevents } from "./uevents.ts";

const CPUS = "/sys/devices/system/cpu";
const MEMORY = "/sys/devices/system/memory";
/** Milliseconds for the kernel to show what QEMU plugged in; then the answer says what is there. */
const APPEAR_LIMIT_MS = 5_000;

export interface Resources {
  readonly cpus: number;
  readonly memoryBytes: bigint;
}

/** Waits (bounded) until the guest has at least `wanted`, bringing online what appears. Never throws. */
export async function onlineResources(wanted: Resources, uevents: Uevents, log: Log): Promise<Resources> {
  const complete = () => {
    bringOnline(log);
    return onlineCpus() >= wanted.cpus && memoryBytes().total >= wanted.memoryBytes;
  };
  if (!complete()) {
    await uevents.until(
      ({ subsystem }) => (subsystem === "cpu" || subsystem === "memory") && complete(),
      complete,
      APPEAR_LIMIT_MS,
    );
  }
  return { cpus: onlineCpus(), memoryBytes: memoryBytes().total };
}

function bringOnline(log: Log): void {
  for (const name of entries(CPUS, "cpu")) {
    const path = `${CPUS}/${name}/online`;
    if (readText(path, 64)?.trim() === "0") tryWrite(path, "1", log);
  }
  for (const name of entries(MEMORY, "memory")) {
    const path = `${MEMORY}/${name}/state`;
    if (readText(path, 64)?.trim() === "offline") tryWrite(path, "online", log);
  }
}

/** Directory entries that are `prefix` and a number. */
function entries(directory: string, prefix: string): string[] {
  try {
    return sys.readdir(directory).filter((name) => {
      const rest = name.slice(prefix.length);
      return name.startsWith(prefix) && rest !== "" && Number.isInteger(Number(rest));
    });
  } catch {
    return []; // a kernel without that kind of hot-plug
  }
}

function tryWrite(path: string, text: string, log: Log): void {
  try {
    writeKernelFile(path, text);
  } catch (error) {
    log.warn({ path, err: describeError(error) }, "hot-plugged resource could not be brought online");
  }
}
