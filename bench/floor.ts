/**
 * The floor of a cold start: the QEMU command line of a real sandbox, with the same kernel, but without any of our
 * devices and with an initrd whose init powers the machine off at once.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { cpioArchive } from "../osbuilder/cpio.ts";
import { runOk } from "../test/harness/run.ts";

/** reboot(2) with LINUX_REBOOT_CMD_POWER_OFF (include/uapi/linux/reboot.h), without a C library. */
const initSource = `
static long call4(long n, long a, long b, long c, long d) {
  long result;
  register long r10 __asm__("r10") = d;
  __asm__ volatile("syscall" : "=a"(result) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
  return result;
}
void _start(void) {
  for (;;) call4(169, 0xfee1dead, 672274793, 0x4321fedc, 0);
}
`;

/** Options that belong to a sandbox and not to a machine as such, and take one argument. */
const sandboxOptions = new Set([
  "-chardev",
  "-device",
  "-netdev",
  "-mon",
  "-add-fd",
  "-qmp",
  "-serial",
  "-name",
  "-pidfile",
]);

/** Builds the initrd at `path`. */
export async function buildFloorInitrd(dir: string): Promise<string> {
  const source = join(dir, "floor.c");
  const program = join(dir, "floor-init");
  writeFileSync(source, initSource);
  await runOk(["gcc", "-O2", "-static", "-nostdlib", "-o", program, source]);
  const initrd = join(dir, "floor.img");
  const data = readFileSync(program);
  writeFileSync(initrd, cpioArchive([{ kind: "file", path: "/init", mode: 0o755, data }], 0));
  return initrd;
}

/** The command line of the floor, from that of a running sandbox's QEMU. */
export function floorCommand(sandbox: readonly string[], initrd: string): string[] {
  const kept: string[] = [];
  for (let i = 0; i < sandbox.length; i++) {
    const word = sandbox[i] ?? "";
    if (sandboxOptions.has(word)) i++;
    else if (word === "-initrd") {
      kept.push(word, initrd);
      i++;
    } else kept.push(word);
  }
  return kept;
}

/** Milliseconds from the start of QEMU to its end. @throws when the guest did not power off by itself. */
export async function measureFloor(command: readonly string[]): Promise<number> {
  return (await runOk(command, { timeoutMs: 120_000 })).durationMs;
}
