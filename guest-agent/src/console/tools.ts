/**
 * The tools of the debug console: a static busybox that the host sends when somebody wants a shell. It lies in the
 * guest's tmpfs while at least one connection that brought (or found) it is open, and for a moment afterwards.
 */
import * as sys from "sys";
import { SandboxError } from "../../../src/base/errors.ts";
import type { ConsoleTools } from "../../../src/gen/caisson/agent/v1/agent_pb.ts";
import type { FramedStream } from "../../../src/streams/index.ts";
import { exitStatus } from "../container/process-life.ts";
import { exists, makeDirectories, writeRegularFile } from "../files.ts";
import {
  AT_FDCWD,
  AT_REMOVEDIR,
  AT_SYMLINK_NOFOLLOW,
  O_CREAT,
  O_RDONLY,
  O_TRUNC,
  O_WRONLY,
  S_IFDIR,
  S_IFMT,
} from "../linux.ts";
import type { Reaper } from "../reaper.ts";

/** More than any busybox has: it would be memory of the guest. */
const MAX_BYTES = 64n << 20n;
const PASSWD = "root:x:0:0:root:/:/bin/sh\n";
const GROUP = "root:x:0:\n";

/**
 * Milliseconds for which they stay after the last session: a person's next command then needs no second transfer, which
 * is most of the time that a short command takes.
 */
export const KEEP_MS = 10_000;

/** Milliseconds to wait for somebody else who is sending the same file; one who was halted must not hold up the others. */
const SHARE_LIMIT_MS = 10_000;

/** Where a guest that has no programs of its own keeps them for as long as they are there. */
export const TOOLS_PATH = "/run/caisson/tools";

export class Tools {
  readonly #reaper: Reaper;
  readonly #dir: string;
  readonly #keepMs: number;
  /** What was made outside the directory, to be removed with it. */
  #extras: string[] = [];
  #leases = 0;
  #uploads = 0;
  /** Set while nobody uses them. */
  #removal: ReturnType<typeof setTimeout> | undefined;
  /** The file that is being sent now. */
  #incoming: { readonly sha256: string; readonly done: Promise<void> } | undefined;
  /** Identity of the file that is there. */
  #present: string | undefined;

  constructor(reaper: Reaper, dir: string, keepMs: number = KEEP_MS) {
    this.#reaper = reaper;
    this.#dir = dir;
    this.#keepMs = keepMs;
  }

  /** Directory with a link per applet. */
  get binPath(): string {
    return `${this.#dir}/bin`;
  }

  /** The program, for execveat, where it is there; the caller closes the descriptor. */
  open(): number | undefined {
    return this.#present === undefined ? undefined : sys.openat(AT_FDCWD, this.#program, O_RDONLY, 0);
  }

  /**
   * Serves one connection: takes the file unless it is there already, answers EXIT 0 when it can be used, and keeps it
   * until the connection has ended.
   */
  async serve(stream: FramedStream, wanted: ConsoleTools): Promise<void> {
    if (wanted.bytes <= 0n || wanted.bytes > MAX_BYTES) {
      stream.reset(`tools of ${wanted.bytes} bytes are refused`);
      return;
    }
    this.#leases++;
    clearTimeout(this.#removal);
    try {
      await this.#othersTransfer(wanted.sha256);
      const there = this.#present === wanted.sha256;
      stream.confirm(there ? { windowBytes: 0 } : {});
      const rest = stream.readable[Symbol.asyncIterator]();
      if (!there) await this.#receiveForAll(rest, wanted);
      await stream.sendExit(0);
      while ((await rest.next()).done !== true);
    } finally {
      this.#leases--;
      if (this.#leases === 0) this.#removal = setTimeout(() => this.#remove(), this.#keepMs);
    }
  }

  get #program(): string {
    return `${this.#dir}/busybox`;
  }

  /** Resolves when nobody sends that file, or does so for too long. */
  async #othersTransfer(sha256: string): Promise<void> {
    const incoming = this.#incoming;
    if (incoming?.sha256 !== sha256) return;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, SHARE_LIMIT_MS);
    });
    await Promise.race([incoming.done.catch(() => undefined), late]);
    clearTimeout(timer);
  }

  async #receiveForAll(chunks: AsyncIterator<Uint8Array, undefined>, wanted: ConsoleTools): Promise<void> {
    const incoming = { sha256: wanted.sha256, done: this.#receive(chunks, wanted) };
    this.#incoming = incoming;
    try {
      await incoming.done;
    } finally {
      if (this.#incoming === incoming) this.#incoming = undefined;
    }
  }

  async #receive(chunks: AsyncIterator<Uint8Array, undefined>, wanted: ConsoleTools): Promise<void> {
    makeDirectories(this.binPath);
    const upload = `${this.#dir}/upload-${this.#uploads++}`;
    const fd = sys.openat(AT_FDCWD, upload, O_WRONLY | O_CREAT | O_TRUNC, 0o755);
    let missing = Number(wanted.bytes);
    try {
      while (missing > 0) {
        const { value } = await chunks.next();
        if (value === undefined)
          throw new SandboxError("ERR_CANCELED", "the tools were not sent to their end");
        if (value.length > missing) throw new SandboxError("ERR_PROTOCOL", "more tools than announced");
        writeAll(fd, value);
        missing -= value.length;
      }
    } finally {
      sys.close(fd);
    }
    sys.renameat2(AT_FDCWD, upload, AT_FDCWD, this.#program, 0);
    await this.#install();
    this.#present = wanted.sha256;
  }

  /** A link per applet; and, in a guest without any, /bin for scripts and names for user and group 0. */
  async #install(): Promise<void> {
    const pid = sys.fork();
    if (pid === 0) {
      try {
        sys.resetSignals();
        sys.execve(this.#program, ["busybox", "--install", "-s", this.binPath], []);
      } finally {
        sys.exit(127);
      }
    }
    const status = exitStatus(await this.#reaper.expect(pid));
    if (status !== 0)
      throw new SandboxError("ERR_START_PROCESS", `the tools cannot be executed here (status ${status})`);
    this.#addUnlessThere("/bin", () => sys.symlinkat(this.binPath, AT_FDCWD, "/bin"));
    this.#addUnlessThere("/etc/passwd", () => writeRegularFile("/etc/passwd", PASSWD));
    this.#addUnlessThere("/etc/group", () => writeRegularFile("/etc/group", GROUP));
  }

  #addUnlessThere(path: string, make: () => void): void {
    if (exists(path)) return;
    make();
    this.#extras.push(path);
  }

  #remove(): void {
    this.#present = undefined;
    for (const path of this.#extras.splice(0)) sys.unlinkat(AT_FDCWD, path, 0);
    removeTree(this.#dir);
  }
}

function writeAll(fd: number, bytes: Uint8Array): void {
  for (let offset = 0; offset < bytes.length; ) offset += sys.write(fd, bytes, offset);
}

/** Only what this module made is below `path`: links, files and one directory. */
function removeTree(path: string): void {
  if (!exists(path)) return;
  for (const name of sys.readdir(path)) {
    const inner = `${path}/${name}`;
    const { mode } = sys.fstatat(AT_FDCWD, inner, AT_SYMLINK_NOFOLLOW);
    if ((mode & S_IFMT) === S_IFDIR) removeTree(inner);
    else sys.unlinkat(AT_FDCWD, inner, 0);
  }
  sys.unlinkat(AT_FDCWD, path, AT_REMOVEDIR);
}
