/**
 * A guest that is saved when it has booted and goes on in other machines (docs/protocol.md, "Template"): it stops before the
 * first thing that is a pod's own, and is told on its console what it becomes.
 */
import * as sys from "sys";
import { writeKernelFile } from "../files.ts";
import { AT_FDCWD, O_RDWR } from "../linux.ts";

/** What the host waits for on the console. */
const READY = "caisson: template ready\n";
/** The console, on which the kernel started this program. */
const STDIN = 0;
const STDOUT = 1;
/** asm-generic/ioctls.h, asm-generic/termbits.h: struct termios has c_lflag at 12. */
const TCGETS = 0x5401;
const TCSETS = 0x5402;
const TERMIOS_BYTES = 36;
const LFLAG_OFFSET = 12;
const ECHO = 0o10;
/** The longest line of a terminal (MAX_CANON counts less; N_TTY_BUF_SIZE of drivers/tty/n_tty.c). */
const LINE_BYTES = 4096;

/** linux/random.h: _IO('R', 7). */
const RNDRESEEDCRNG = 0x5207;

/** The port whose devices come with the pod's machine (src/hypervisor/qemu/argv.ts). */
const POD_PORT = "/sys/bus/pci/devices/0000:00:1e.0/pci_bus";

/** What a guest is told that goes on from a template. */
export interface Orders {
  /** Host vsock port to dial for the hello. */
  readonly hostPort: number;
  /** Printable; as random as the guest's own numbers are to become. */
  readonly seed: string;
}

/**
 * Tells the host that the guest can be saved, and sleeps until a line comes.
 * @throws when the console is gone, or the line makes no sense
 */
export function awaitOrders(): Orders {
  const termios = new Uint8Array(TERMIOS_BYTES);
  sys.ioctlBuffer(STDIN, TCGETS, termios);
  termios[LFLAG_OFFSET] = (termios[LFLAG_OFFSET] ?? 0) & ~ECHO;
  sys.ioctlBuffer(STDIN, TCSETS, termios);
  sys.write(STDOUT, sys.encodeUtf8(READY));
  const line = new Uint8Array(LINE_BYTES);
  for (;;) {
    const length = sys.read(STDIN, line);
    if (length <= 0) throw new Error("the console was closed");
    const text = sys.decodeUtf8(line, 0, length).trim();
    if (text === "") continue;
    const blank = text.indexOf(" ");
    const hostPort = Number(text.slice(0, blank));
    const seed = text.slice(blank + 1);
    if (blank < 0 || !(hostPort > 0) || seed === "") throw new Error("the template was told nonsense");
    return { hostPort, seed };
  }
}

/**
 * Makes what the kernel calls random this guest's own: all guests of a template have the same state until then.
 * @throws SysError; a guest that cannot must not go on
 */
export function reseed(seed: string): void {
  const fd = sys.openat(AT_FDCWD, "/dev/urandom", O_RDWR, 0);
  try {
    sys.write(fd, sys.encodeUtf8(seed));
    sys.ioctl(fd, RNDRESEEDCRNG, 0);
  } finally {
    sys.close(fd);
  }
}

/**
 * How the kernel is made to look for the pod's devices. It is doing so already, since they were plugged in: this waits for it,
 * and they have their drivers then. Looking on the whole bus takes many times as long.
 */
export function podDevices(): { find(): void } {
  const [bus = ""] = sys.readdir(POD_PORT);
  return { find: () => writeKernelFile(`${POD_PORT}/${bus}/rescan`, "1") };
}
