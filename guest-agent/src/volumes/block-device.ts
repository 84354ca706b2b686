/** Block devices that the host plugs in, found by their serial number. */
import * as sys from "sys";
import { SandboxError } from "../../../src/base/errors.ts";
import { readText } from "../files.ts";
import type { Uevents } from "../uevents.ts";

const BLOCK = "/sys/block";
/** Milliseconds for the kernel to show what QEMU plugged in, its driver's loading included. */
const APPEAR_LIMIT_MS = 8_000;

export interface BlockDevice {
  readonly name: string;
  readonly major: number;
  readonly minor: number;
}

/** @throws SandboxError ERR_NOT_FOUND when it does not appear. */
export async function findBlockDevice(serial: string, uevents: Uevents): Promise<BlockDevice> {
  let found = withSerial(serial);
  if (found === undefined) {
    const look = () => {
      found = withSerial(serial);
      return found !== undefined;
    };
    await uevents.until(({ subsystem }) => subsystem === "block" && look(), look, APPEAR_LIMIT_MS);
  }
  if (found !== undefined) return found;
  throw new SandboxError("ERR_NOT_FOUND", `no block device with the serial number ${serial} has appeared`);
}

function withSerial(serial: string): BlockDevice | undefined {
  for (const name of names()) {
    if (readText(`${BLOCK}/${name}/serial`, 256)?.trim() !== serial) continue;
    // "254:0"
    const [major, minor] = (readText(`${BLOCK}/${name}/dev`, 64) ?? "").trim().split(":").map(Number);
    if (major !== undefined && minor !== undefined) return { name, major, minor };
  }
  return undefined;
}

function names(): string[] {
  try {
    return sys.readdir(BLOCK);
  } catch {
    return []; // a kernel without block devices
  }
}
