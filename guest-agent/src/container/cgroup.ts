/**
 * The cgroup v2 of a container: CGROUP_ROOT/caisson/<container>. Everything in it is kernel memory, so the calls are
 * synchronous; only emptiness and freezing are waited for, on the kernel's own notification.
 */
import * as sys from "sys";
import { SandboxError } from "../../../src/base/errors.ts";
import type { Log } from "../../../src/base/log.ts";
import type { EventLoop } from "../event-loop.ts";
import { makeDirectory, readText, writeKernelFile } from "../files.ts";
import { AT_FDCWD, AT_REMOVEDIR, EPOLLPRI, O_RDONLY, sysCode } from "../linux.ts";
import type { CgroupWrite } from "./resource-plan.ts";

/** Directory below the root that holds the cgroups of all containers. */
const PARENT = "caisson";
/** Bytes of a cgroup file that are read at most: cgroup.procs of some 100,000 processes. */
const FILE_LIMIT = 1 << 20;

export interface CgroupDeps {
  readonly loop: EventLoop;
  readonly log: Log;
  /** Mount point of the cgroup2 file system: /sys/fs/cgroup. */
  readonly cgroupRoot: string;
}

export class Cgroup {
  /** Roots that have been prepared: that stays so. */
  static readonly #prepared = new Set<string>();
  readonly path: string;
  readonly #deps: CgroupDeps;

  private constructor(deps: CgroupDeps, path: string) {
    this.#deps = deps;
    this.path = path;
  }

  /** Makes the directory of all containers, with every controller the kernel offers. @throws SysError */
  static prepare({ cgroupRoot }: Pick<CgroupDeps, "cgroupRoot">): string {
    const parent = `${cgroupRoot}/${PARENT}`;
    if (Cgroup.#prepared.has(cgroupRoot)) return parent;
    delegate(cgroupRoot);
    makeDirectory(parent);
    delegate(parent);
    Cgroup.#prepared.add(cgroupRoot);
    return parent;
  }

  /** Makes the cgroup of one. The caller calls `remove`. @throws ERR_HOST */
  static create(deps: CgroupDeps, name: string): Cgroup {
    let parent = deps.cgroupRoot;
    try {
      parent = Cgroup.prepare(deps);
      sys.mkdirat(AT_FDCWD, `${parent}/${name}`, 0o755);
    } catch (error) {
      if (sysCode(error) === "EEXIST") {
        throw new SandboxError("ERR_ALREADY_EXISTS", `the cgroup of container ${name} exists already`);
      }
      throw new SandboxError("ERR_HOST", `cannot make a cgroup below ${parent}`, { cause: error });
    }
    return new Cgroup(deps, `${parent}/${name}`);
  }

  /** Descriptor to start a process in it; the caller closes it. */
  open(): number {
    return sys.openat(AT_FDCWD, this.path, O_RDONLY | sys.O_DIRECTORY, 0);
  }

  /** The content of a file; undefined where the controller is absent. */
  read(file: string): string | undefined {
    return readText(`${this.path}/${file}`, FILE_LIMIT);
  }

  write(file: string, value: string): void {
    writeKernelFile(`${this.path}/${file}`, value);
  }

  /** Applies limits in order. @throws ERR_HOST naming the file when the kernel lacks or refuses a required one. */
  apply(writes: readonly CgroupWrite[]): void {
    for (const { file, value, required } of writes) {
      try {
        this.write(file, value);
      } catch (error) {
        if (!required) {
          this.#deps.log.warn({ path: file, errno: sysCode(error) }, "a resource setting was left out");
          continue;
        }
        const why =
          sysCode(error) === "ENOENT" ? "the guest's kernel does not have it" : "the guest's kernel refused";
        throw new SandboxError("ERR_HOST", `cannot set ${file} to "${value}": ${why}`, { cause: error });
      }
    }
  }

  /** Processes in it and in cgroups that the container made below it; as the agent numbers them. */
  processes(): readonly number[] {
    return this.#collect(this.path);
  }

  /** Sends SIGKILL to every process, also to those being forked. */
  kill(): void {
    this.write("cgroup.kill", "1");
  }

  get populated(): boolean {
    return eventValue(this.read("cgroup.events") ?? "", "populated") === 1n;
  }

  /** Freezes or thaws; resolves when all processes are. @throws ERR_DEADLINE */
  async setFrozen(frozen: boolean, limitMs: number): Promise<void> {
    this.write("cgroup.freeze", frozen ? "1" : "0");
    await this.#until("frozen", frozen ? 1n : 0n, limitMs);
  }

  /** Resolves when no process is left. @throws ERR_DEADLINE */
  async whenEmpty(limitMs: number): Promise<void> {
    await this.#until("populated", 0n, limitMs);
  }

  /** Kills what is left, then removes the cgroup and those below it. Idempotent. @throws ERR_DEADLINE, SysError */
  async remove(limitMs: number): Promise<void> {
    if (this.read("cgroup.events") === undefined) return;
    if (this.populated) {
      this.kill();
      await this.whenEmpty(limitMs);
    }
    removeTree(this.path);
  }

  /** Calls back whenever the kernel says that `file` changed. The returned function ends it. */
  onChange(file: string, callback: (content: string) => void): () => void {
    const fd = sys.openat(AT_FDCWD, `${this.path}/${file}`, O_RDONLY, 0);
    // The first read arms the notification (kernfs_generic_poll compares with the event count of the last read).
    rereadText(fd);
    const watch = this.#deps.loop.watch(fd, EPOLLPRI, () => callback(rereadText(fd)));
    let open = true;
    return () => {
      if (!open) return;
      open = false;
      watch.close();
      sys.close(fd);
    };
  }

  #until(key: string, wanted: bigint, limitMs: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const settle = (content: string): boolean => {
        if (eventValue(content, key) !== wanted) return false;
        stop();
        this.#deps.loop.clearTimer(timer);
        resolve();
        return true;
      };
      const stop = this.onChange("cgroup.events", settle);
      const timer = this.#deps.loop.setTimer(limitMs, () => {
        stop();
        reject(
          new SandboxError(
            "ERR_DEADLINE",
            `${this.path}: "${key}" did not become ${wanted} in ${limitMs} ms`,
          ),
        );
      });
      settle(this.read("cgroup.events") ?? `${key} ${wanted}`);
    });
  }

  #collect(path: string): readonly number[] {
    const own = (readText(`${path}/cgroup.procs`, FILE_LIMIT) ?? "")
      .split("\n")
      .filter((line) => line !== "")
      .map(Number);
    return [...own, ...subdirectories(path).flatMap((name) => this.#collect(`${path}/${name}`))];
  }
}

/** The number after `key` in a flat-keyed file ("oom_kill 3"); 0 when it is not there. */
export function eventValue(content: string, key: string): bigint {
  for (const line of content.split("\n")) {
    if (line.startsWith(`${key} `)) return BigInt(line.slice(key.length + 1));
  }
  return 0n;
}

/** Hands every controller of a cgroup to its children; one that refuses does not stop the others. */
function delegate(path: string): void {
  const offered = (readText(`${path}/cgroup.controllers`) ?? "").trim().split(" ");
  const enabled = new Set((readText(`${path}/cgroup.subtree_control`) ?? "").trim().split(" "));
  for (const name of offered) {
    if (name === "" || enabled.has(name)) continue;
    try {
      writeKernelFile(`${path}/cgroup.subtree_control`, `+${name}`);
    } catch (error) {
      // A controller that something else holds; a limit that needs it says so when it is applied.
      if (sysCode(error) === "ENOENT") throw error;
    }
  }
}

function subdirectories(path: string): readonly string[] {
  try {
    return sys.readdir(path).filter((name) => isDirectory(`${path}/${name}`));
  } catch (error) {
    if (sysCode(error) === "ENOENT") return [];
    throw error;
  }
}

/** Cgroups hold only files (names with a dot, mostly) and cgroups. */
function isDirectory(path: string): boolean {
  return (sys.fstatat(AT_FDCWD, path, 0).mode & 0o170000) === 0o040000;
}

function removeTree(path: string): void {
  for (const name of subdirectories(path)) removeTree(`${path}/${name}`);
  try {
    sys.unlinkat(AT_FDCWD, path, AT_REMOVEDIR);
  } catch (error) {
    if (sysCode(error) !== "ENOENT") throw error;
  }
}

function rereadText(fd: number): string {
  const buffer = new Uint8Array(4096);
  sys.lseek(fd, 0, 0);
  try {
    const length = sys.read(fd, buffer);
    return sys.decodeUtf8(buffer, 0, Math.max(0, length));
  } catch (error) {
    // ENODEV: the cgroup was removed.
    if (sysCode(error) === "ENODEV") return "";
    throw error;
  }
}
