/** Loads the image's kernel modules at the moments that its list names. */
import * as sys from "sys";
import { describeError } from "../../../src/base/errors.ts";
import type { Log } from "../../../src/base/log.ts";
import { readText } from "../files.ts";
import { AT_FDCWD, O_RDONLY, sysCode } from "../linux.ts";
import { type ModuleEntry, type ModuleWhen, parseModuleList } from "./module-list.ts";
import { PciProbing } from "./pci-probing.ts";

const LIST = "/etc/caisson/modules";
const VIRTIO_DEVICES = "/sys/bus/virtio/devices";
/** The virtio id of the vsock device (virtio specification, section 5). */
const VSOCK = 19;
/** Those of the other devices that each pod's machine has: network, file systems. */
const POD_DEVICES: ReadonlySet<number> = new Set([1, 26]);

export class ModuleLoader {
  readonly #log: Log;
  readonly #entries: readonly ModuleEntry[];
  readonly #loaded = new Set<string>();
  readonly #probing: PciProbing;

  /** Reads the list; an image without one has everything built in. */
  constructor(log: Log) {
    this.#log = log;
    this.#probing = new PciProbing(log);
    const text = readText(LIST, 1 << 20);
    const { entries, malformed } = parseModuleList(text ?? "");
    this.#entries = entries;
    for (const line of malformed) log.warn({ path: LIST }, `module list: "${line}" was not understood`);
  }

  /** Loads the modules of the boot, which the hello needs. Of the devices that are there only its own gets its driver. */
  loadForBoot(): void {
    this.#probing.hold();
    this.#load((when) => when.kind === "boot");
    this.#probing.probe((id) => id === VSOCK);
  }

  /** In a template: loads what a pod's machine will need, for its devices are not there yet. */
  loadForTemplate(): void {
    this.#load((when) => when.kind === "boot" || (when.kind === "virtio" && POD_DEVICES.has(when.id)));
    this.loadForDevices();
  }

  /**
   * Loads the drivers of the virtio devices that are present now; call again after a hot-plug.
   * @param but device ids that are left out
   */
  loadForDevices(but: ReadonlySet<number> = new Set()): void {
    this.#probing.resume();
    this.#probing.probe((id) => !but.has(id));
    const present = presentVirtioIds();
    const wanted = (id: number) => present.has(id) && !but.has(id);
    this.#load((when) => when.kind === "virtio" && wanted(when.id));
  }

  /** Loads what something asks for by name. @returns false when the image lists nothing under it. */
  loadOnDemand(name: string): boolean {
    return this.#load((when) => when.kind === "demand" && when.name === name) > 0;
  }

  #load(wanted: (when: ModuleWhen) => boolean): number {
    let matched = 0;
    for (const { when, path } of this.#entries) {
      if (!wanted(when)) continue;
      matched++;
      if (this.#loaded.has(path)) continue;
      this.#loaded.add(path);
      this.#loadOne(path);
    }
    return matched;
  }

  #loadOne(path: string): void {
    try {
      const fd = sys.openat(AT_FDCWD, path, O_RDONLY, 0);
      try {
        sys.finitModule(fd, "", 0);
      } finally {
        sys.close(fd);
      }
      // The root file system is memory, and nothing reads the file again.
      sys.unlinkat(AT_FDCWD, path, 0);
    } catch (error) {
      // EEXIST: built in, or loaded by the kernel itself. Anything else shows up where the module is needed.
      if (sysCode(error) !== "EEXIST") {
        this.#log.error({ path, err: describeError(error) }, `kernel module ${path} could not be loaded`);
      }
    }
  }
}

/** Device ids (virtio specification, section 5) of the virtio devices in the guest. */
function presentVirtioIds(): Set<number> {
  const ids = new Set<number>();
  let names: string[];
  try {
    names = sys.readdir(VIRTIO_DEVICES);
  } catch {
    return ids; // no virtio bus, no devices
  }
  for (const name of names) {
    // "0x001a\n"
    const id = Number(readText(`${VIRTIO_DEVICES}/${name}/device`, 64)?.trim());
    if (Number.isInteger(id)) ids.add(id);
  }
  return ids;
}
