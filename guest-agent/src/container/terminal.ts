/** The pseudo-terminal of a container's process; runs in the child. */
import * as sys from "sys";
import { SandboxError } from "../../../src/base/errors.ts";
import { O_NOCTTY, O_RDWR } from "../linux.ts";
import { startFailure } from "./executable.ts";
import { attachMount, cloneMount } from "./mounts.ts";
import type { ProcessSpec } from "./oci-spec.ts";
import { ensureFile } from "./path-in-root.ts";
import { CANNOT_OPEN_TERMINAL, NO_MULTIPLEXER } from "./process-plan.ts";

export interface Terminal {
  /** For the agent. */
  readonly master: number;
  /** Becomes the process's stdio. */
  readonly slave: number;
}

/**
 * A new pseudo-terminal of the container's own devpts.
 * @param open opens a path of the container with the given flags.
 * @throws ERR_START_PROCESS when the container has no usable devpts.
 */
export function openTerminal(
  open: (path: string, flags: number) => number,
  size: ProcessSpec["consoleSize"],
): Terminal {
  try {
    const master = open("/dev/pts/ptmx", O_RDWR | O_NOCTTY);
    const slave = sys.terminalSlave(master, size?.height ?? 0, size?.width ?? 0);
    if (slave === undefined) throw startFailure(NO_MULTIPLEXER);
    return { master, slave };
  } catch (error) {
    if (error instanceof SandboxError) throw error;
    throw startFailure(CANNOT_OPEN_TERMINAL, error);
  }
}

/** Makes the slave the container's /dev/console. */
export function bindConsole(root: number, slave: number): void {
  const target = ensureFile(root, "/dev/console");
  const tree = cloneMount(slave, false);
  attachMount(tree, target);
  sys.close(tree);
  sys.close(target);
}
