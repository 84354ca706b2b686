/** The pseudo-terminal of a container's process; runs in the child. */
import * as sys from "sys";
import { SandboxError } from "../../../src/base/errors.ts";
import { AT_EMPTY_PATH, O_NOCTTY, O_RDWR } from "../linux.ts";
import { TIOCGPTPEER, TIOCSCTTY, TIOCSPTLCK } from "./kernel.ts";
import { attachMount, cloneMount } from "./mounts.ts";
import type { ProcessSpec } from "./oci-spec.ts";
import { ensureFile } from "./path-in-root.ts";

export interface Terminal {
  /** For the agent. */
  readonly master: number;
  /** Becomes the process's stdio. */
  readonly slave: number;
}

/** devices.txt: /dev/ptmx and the ptmx of a devpts instance. */
const PTMX_MAJOR = 5;
const PTMX_MINOR = 2;

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
    const { rdevMajor, rdevMinor } = sys.fstatat(master, "", AT_EMPTY_PATH);
    if (rdevMajor !== PTMX_MAJOR || rdevMinor !== PTMX_MINOR) {
      throw new SandboxError(
        "ERR_START_PROCESS",
        "/dev/pts/ptmx of the container is not a pseudo-terminal multiplexer",
      );
    }
    sys.ioctlBuffer(master, TIOCSPTLCK, new Uint8Array(4));
    const slave = sys.ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY);
    if (size !== undefined && size.height > 0 && size.width > 0)
      sys.setWindowSize(master, size.width, size.height);
    return { master, slave };
  } catch (error) {
    if (error instanceof SandboxError) throw error;
    throw new SandboxError(
      "ERR_START_PROCESS",
      "cannot open a terminal in the container (is devpts mounted at /dev/pts?)",
      {
        cause: error,
      },
    );
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

/** Makes the terminal on descriptor 0 the controlling one. Preconditions: the process leads its session. */
export function controlTerminal(): void {
  sys.ioctl(0, TIOCSCTTY, 0);
}
