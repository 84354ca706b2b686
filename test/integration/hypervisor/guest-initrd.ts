/** A guest for tests of the machine alone: busybox and a shell script as /init. */
import { readFileSync, writeFileSync } from "node:fs";
import { cpioArchive } from "../../../osbuilder/cpio.ts";
import { built } from "../../harness/paths.ts";

/**
 * Writes an initrd whose init prints "guest: up" and then does what the kernel command line asks for:
 * `test.stay` keeps running, `test.hotplug` reports PCI network devices, CPUs and memory blocks whenever their number
 * changes; else it powers off.
 */
export function writeGuestInitrd(path: string): void {
  const init = `#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
echo "guest: up"
/bin/busybox grep -E 'MemTotal' /proc/meminfo
if /bin/busybox grep -q test.hotplug /proc/cmdline; then
  /bin/busybox mount -t sysfs sys /sys
  while :; do
    nics=$(/bin/busybox grep -l 0x020000 /sys/bus/pci/devices/*/class | /bin/busybox wc -l)
    cpus=$(echo /sys/devices/system/cpu/cpu[0-9]* | /bin/busybox wc -w)
    online=$(/bin/busybox grep -l online /sys/devices/system/memory/memory*/state | /bin/busybox wc -l)
    now="nics=$nics cpus=$cpus blocks=$online possible=$(/bin/busybox cat /sys/devices/system/cpu/possible)"
    [ "$now" = "$before" ] || echo "guest: $now"
    before=$now
    /bin/busybox sleep 0.1
  done
fi
/bin/busybox grep -q test.stay /proc/cmdline && exec /bin/busybox sleep 3600
echo "guest: leaving"
/bin/busybox poweroff -f
`;
  const archive = cpioArchive(
    [
      { kind: "directory", path: "/bin", mode: 0o755 },
      { kind: "directory", path: "/dev", mode: 0o755 },
      { kind: "directory", path: "/proc", mode: 0o755 },
      { kind: "directory", path: "/sys", mode: 0o755 },
      { kind: "character-device", path: "/dev/console", mode: 0o600, major: 5, minor: 1 },
      { kind: "file", path: "/bin/busybox", mode: 0o755, data: readFileSync(built.busybox) },
      { kind: "file", path: "/init", mode: 0o755, data: Buffer.from(init) },
    ],
    0,
  );
  writeFileSync(path, archive);
}
