/** What a VMM and its guest said last, for an error. */
import type { RunningVm } from "./hypervisor.ts";
import type { TailBuffer } from "./tail-buffer.ts";

/** Lines of each output that an error carries. */
const LINES = 8;

/** How the kernel begins the line with the reason of its panic (kernel/panic.c); a trace of many lines may follow it. */
const PANIC = "Kernel panic - not syncing: ";

/** The reason of the guest's panic and the ends of the VMM's stderr and of the guest's console, where there are such. */
export function lastWords(stderr: TailBuffer, console: TailBuffer): string {
  const said = console.lastLines(Number.POSITIVE_INFINITY);
  const panic = said.findLast((line) => line.includes(PANIC));
  return [
    panic && `the guest's kernel panicked: ${panic.slice(panic.indexOf(PANIC) + PANIC.length)}`,
    ...quoted("QEMU's stderr", stderr.lastLines(LINES)),
    ...quoted("end of the guest's console", said.slice(-LINES)),
  ]
    .filter((part) => part !== undefined)
    .join("\n");
}

const quoted = (title: string, lines: readonly string[]) =>
  lines.length === 0 ? [] : [`${title}:`, ...lines];

/** `message`, followed by the last words of `vm`. */
export function withLastWords(message: string, vm: Pick<RunningVm, "lastWords">): string {
  const words = vm.lastWords();
  return words === "" ? message : `${message}\n${words}`;
}
