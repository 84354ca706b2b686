/**
 * virtiofsd, the vhost-user daemon behind the guest's shared tree.
 *
 * There are two: the C one of QEMU up to 7.2 (Debian 12), with FUSE's `-o key=value` options, and its successor in Rust
 * with `--key value`. Both take an already listening socket (`--fd`), so nobody waits for the daemon to get ready, and
 * both keep their sandbox (own mount, pid and network namespace, pivot_root into the tree) and seccomp filter.
 *
 * Submounts are announced with both (docs/decisions/0009-virtiofs-submounts.md): the roots of two containers' overlays
 * have the same inode number, and only as mounts of their own in the guest do they differ in st_dev.
 *
 * Both create files as the user and group of the process in the guest, of whose further groups they know nothing, so the
 * host would refuse what only such a group permits (a pod's fsGroup). The guest's kernel has decided that already. The
 * Rust one therefore keeps CAP_DAC_OVERRIDE while it is another user; the C one loses every capability there unless it
 * is started so that it does not.
 */
import { readFileSync, realpathSync } from "node:fs";
import { SandboxError } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { logField } from "../base/log-fields.ts";
import { loadSupervisor, type SupervisedChild } from "./child-process.ts";
import { listenForChild } from "./listening-socket.ts";

export type VirtiofsdFlavour = "c" | "rust";
export type VirtiofsCache = "auto" | "always" | "metadata" | "never";

/** Number that the listening socket has in the daemon: the first inherited one. */
const SOCKET_FD = 3;

export interface VirtiofsdInit {
  /** Absolute path of the daemon. */
  readonly path: string;
  /** Default: detected from the path, else from the program itself. */
  readonly flavour?: VirtiofsdFlavour;
  /** The directory that the guest sees. */
  readonly sharedDir: string;
  /** Where to listen; removed again by the owner of the directory. */
  readonly socketPath: string;
  readonly cache: VirtiofsCache;
  /** Appended as they are. */
  readonly extraArgs: readonly string[];
  /** Number of worker threads; 0 is the daemon's default of serving on the queue's own thread. */
  readonly threadPoolSize?: number;
  readonly log: Log;
}

/**
 * Starts the daemon. When this resolves, `socketPath` accepts connections.
 * @throws SandboxError ERR_HOST when it cannot be executed, ERR_CONFIG for a cache mode that it does not know.
 */
export async function startVirtiofsd(init: VirtiofsdInit): Promise<SupervisedChild> {
  const flavour = init.flavour ?? detectFlavour(init.path);
  const args = virtiofsdArgs(init, flavour);
  const spawn = await loadSupervisor();
  // No await until close(): see listenForChild.
  const listener = listenForChild(init.socketPath, { keepPath: true });
  try {
    return spawn({
      name: "virtiofsd",
      file: init.path,
      args,
      inheritFds: [listener.fd],
      keepCapabilities: flavour === "c",
      log: init.log,
      onStderrLine: (line) => init.log.info({ [logField.component]: "virtiofsd" }, line),
    });
  } finally {
    listener.close();
  }
}

/** The daemon's arguments. Pure. */
export function virtiofsdArgs(
  init: Pick<VirtiofsdInit, "sharedDir" | "cache" | "extraArgs" | "threadPoolSize">,
  flavour: VirtiofsdFlavour,
): string[] {
  const pool =
    init.threadPoolSize === undefined || init.threadPoolSize === 0
      ? []
      : [`--thread-pool-size=${init.threadPoolSize}`];
  return [
    `--fd=${SOCKET_FD}`,
    ...(flavour === "c" ? optionsOfC(init.sharedDir, init.cache) : optionsOfRust(init.sharedDir, init.cache)),
    ...pool,
    ...init.extraArgs,
  ];
}

function optionsOfC(sharedDir: string, cache: VirtiofsCache): string[] {
  if (cache === "metadata") {
    throw new SandboxError(
      "ERR_CONFIG",
      'virtio_fs_cache = "metadata" is not known to the C virtiofsd; use "auto", "always" or "never"',
    );
  }
  const options = [
    `source=${sharedDir}`,
    `cache=${cache === "never" ? "none" : cache}`,
    "sandbox=namespace",
    "xattr",
    "announce_submounts",
    "log_level=warn",
  ];
  return ["-f", ...options.flatMap((option) => ["-o", option])];
}

function optionsOfRust(sharedDir: string, cache: VirtiofsCache): string[] {
  return [
    "--shared-dir",
    sharedDir,
    "--cache",
    cache,
    "--sandbox",
    "namespace",
    "--seccomp",
    "kill",
    "--xattr",
    "--announce-submounts",
    // File handles instead of a descriptor per inode that the guest knows; descriptors where a file system has none.
    "--inode-file-handles=prefer",
    "--log-level",
    "warn",
  ];
}

/** An option name that only the C daemon has, and one that only the Rust daemon has, as they stand in the programs. */
const marks = { c: "no_posix_lock", rust: "inode-file-handles" } as const;

/**
 * Which daemon `path` is. QEMU's library directory has only ever held the C one; /usr/libexec has held both, so
 * elsewhere the program's own text decides (1 ms; starting it for --version takes ten times that).
 * @throws SandboxError ERR_HOST when it is missing, ERR_CONFIG when it is neither (a wrapper script, say).
 */
export function detectFlavour(path: string): VirtiofsdFlavour {
  let program: Buffer;
  try {
    if (/\/lib(64)?\/qemu\/virtiofsd$/.test(realpathSync(path))) return "c";
    program = readFileSync(path);
  } catch (cause) {
    throw new SandboxError("ERR_HOST", `virtiofsd ${path} cannot be read`, {
      cause,
      fields: { [logField.path]: path },
    });
  }
  if (program.includes(marks.rust)) return "rust";
  if (program.includes(marks.c)) return "c";
  throw new SandboxError(
    "ERR_CONFIG",
    `cannot tell whether ${path} is the C or the Rust virtiofsd; set virtio_fs_daemon_flavour to "c" or "rust"`,
    { fields: { [logField.path]: path } },
  );
}
