/** Finds qboot, the minimal firmware that is enough to start a kernel. */
import { accessSync, constants } from "node:fs";
import { dirname, join } from "node:path";

/**
 * Where distributions put it: beside QEMU's own data (Debian, Fedora, upstream's install), or as a package of its own
 * (older Fedora).
 */
const knownPlaces: readonly string[] = [
  "/usr/share/qemu/qboot.rom",
  "/usr/local/share/qemu/qboot.rom",
  "/usr/share/qboot/bios.bin",
];

/** The path of qboot, first of all where `qemuPath` is installed; undefined where there is none. */
export function findQboot(qemuPath: string): string | undefined {
  const beside = join(dirname(dirname(qemuPath)), "share/qemu/qboot.rom");
  return [beside, ...knownPlaces].find((path) => {
    try {
      accessSync(path, constants.R_OK);
      return true;
    } catch {
      return false;
    }
  });
}
