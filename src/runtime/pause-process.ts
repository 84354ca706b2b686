/**
 * The process of a pod's pause container. Nothing of it runs in the guest: the namespaces that a pause process holds
 * on a shared host are held by the machine itself, so it starts when the machine is ready and ends when it is told to.
 */
import { SandboxError } from "../base/errors.ts";
import type { ContainerProcess, ProcessGuest } from "./container-process.ts";

/** Signals by which containerd and CRI-O end a pause container (signal(7)): HUP, INT, QUIT, KILL, TERM. */
const ENDING = new Set([1, 2, 3, 9, 15]);

export function pauseProcess(process: ContainerProcess): ProcessGuest {
  return {
    start: async () => ({ pid: 1 }),
    signal: async (signal) => {
      if (ENDING.has(signal)) process.settle({ status: 128 + signal, exitedAt: new Date() });
    },
    resize: async () => undefined,
    remove: async () => undefined,
    dial: async () => {
      throw new SandboxError("ERR_UNSUPPORTED", "the pause container of a pod has no streams");
    },
  };
}
