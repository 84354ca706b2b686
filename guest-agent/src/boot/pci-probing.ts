/**
 * When the kernel's virtio_pci takes the devices that are there at the boot: each is some milliseconds of an emulated
 * processor, so that of the hello goes first, and those that the start of a container does not need go last.
 */
import * as sys from "sys";
import { describeError } from "../../../src/base/errors.ts";
import type { Log } from "../../../src/base/log.ts";
import { readText, writeKernelFile } from "../files.ts";
import { virtioId } from "./virtio-id.ts";

const BUS = "/sys/bus/pci";

export class PciProbing {
  readonly #log: Log;
  /** Virtio ids of the devices that wait, by address on the bus. */
  readonly #waiting = new Map<string, number>();

  constructor(log: Log) {
    this.#log = log;
  }

  /** Drivers that are loaded from now on take no device by themselves. */
  hold(): void {
    this.#write("drivers_autoprobe", "0");
    let names: string[] = [];
    try {
      names = sys.readdir(`${BUS}/devices`);
    } catch {
      // no bus, no devices
    }
    for (const name of names) {
      const id = virtioId(readText(`${BUS}/devices/${name}/modalias`, 256) ?? "");
      if (id !== undefined) this.#waiting.set(name, id);
    }
  }

  /** Devices that are plugged in from now on get their drivers at once. */
  resume(): void {
    this.#write("drivers_autoprobe", "1");
  }

  /** Has the devices that wait and whose virtio id is `wanted` taken by their drivers. */
  probe(wanted: (id: number) => boolean): void {
    for (const [name, id] of this.#waiting) {
      if (!wanted(id)) continue;
      this.#waiting.delete(name);
      this.#write("drivers_probe", name);
    }
  }

  #write(file: string, text: string): void {
    try {
      writeKernelFile(`${BUS}/${file}`, text);
    } catch (error) {
      // What is missing for it shows up where the device is needed.
      this.#log.error({ path: `${BUS}/${file}`, err: describeError(error) }, "the PCI bus was not told");
    }
  }
}
