/**
 * The tree of files that a guest gets, in two views of one directory:
 *
 *   shared   the host's: containers and volumes are mounted below it; a mount of its own with shared propagation
 *   view     the guest's, which virtiofsd serves: the same, read-only, and a slave of the first, so that what is mounted
 *            there later appears here and in virtiofsd's mount namespace (mount_namespaces(7))
 *
 *   <container>/rootfs   the container's root file system; the second of that name in a sandbox has another directory
 *   .volumes/<n>         a bind mount that one or more containers have, read-only where none may write
 *   .sentinel/proof      a file on a mount made after virtiofsd started (docs/protocol.md)
 *
 * Each mount keeps its own read-only flag, so a guest writes into its file systems and volumes, but it cannot rename, link
 * or make anything in the tree itself: every path of it is ours alone.
 *
 * Containers that mount the same volume get one mount: two would be two sets of inodes for the guest (virtiofsd tells
 * mounts apart), with separate page caches and locks, and a unix socket bound through one could not be reached through
 * the other.
 */
import { randomBytes } from "node:crypto";
import fs from "node:fs";
import path from "node:path";
import { errnoOf, SandboxError } from "../../base/errors.ts";
import { failPoint } from "../../base/failpoint.ts";
import { removeTree } from "../../base/remove-tree.ts";
import { UndoStack } from "../../base/undo.ts";
import type { BindPlan } from "../../oci/rewrite.ts";

/** The mounts that the tree needs; implemented by src/native. Options are those of mount(8). */
export interface MountSyscalls {
  mount(source: string, target: string, fstype: string, options: readonly string[]): Promise<void>;
  /** umount2(2) with MNT_DETACH; a target that is not mounted is no error. */
  detach(target: string): Promise<void>;
}

/** Writes a mount ahead of making it, and notes when it is gone. */
export interface MountJournal {
  add(record: { kind: "mount"; path: string }): number;
  done(number: number): void;
}

/** One mount as containerd's Create request names it. */
export interface RootfsMount {
  readonly type: string;
  readonly source: string;
  readonly options: readonly string[];
}

export const SENTINEL_NAME = ".sentinel/proof";
const VOLUMES_NAME = ".volumes";

/** What is shared of the host: a path, with or without what is mounted below it, writable or not. */
export type ShareRequest = Pick<BindPlan, "source" | "kind" | "readonly" | "recursive" | "destination">;

/** A mount below the tree, held until it is released by everyone who got it. */
export interface SharedVolume {
  /** Path below the tree. */
  readonly name: string;
  /** Idempotent. */
  release(): Promise<void>;
}

/** Directories of one file system: of sandboxPaths(). */
export interface SharedTreePaths {
  /** What both lie in, and nothing else that is mounted. */
  readonly dir: string;
  readonly shared: string;
  readonly sharedView: string;
}

/** A container's root file system below the tree. */
export interface SharedRoot {
  /** Its path below the tree, which no other had before: a guest may know names for as long as it runs. */
  readonly name: string;
  /** Unmounts and removes it; owned by the caller. */
  readonly undo: UndoStack;
}

interface Volume {
  readonly request: ShareRequest;
  /** What `request.source` named when it was mounted: a mount stays with its file, and a path may get another one. */
  readonly file: string;
  readonly name: string;
  readonly mounted: Promise<UndoStack>;
  readonly beforeUnmount: () => Promise<void>;
  holders: number;
}

export class SharedTree {
  /** The host's view. */
  readonly path: string;
  /** The guest's view. */
  readonly guestPath: string;
  readonly #mounts: MountSyscalls;
  readonly #journal: MountJournal;
  readonly #undo = new UndoStack();
  readonly #volumes = new Set<Volume>();
  /** Containers that there were, by id. */
  readonly #containerCounts = new Map<string, number>();
  #volumeCount = 0;

  private constructor(at: SharedTreePaths, mounts: MountSyscalls, journal: MountJournal) {
    this.path = at.shared;
    this.guestPath = at.sharedView;
    this.#mounts = mounts;
    this.#journal = journal;
  }

  /** Makes both views (neither may exist), or nothing of them mounted. The caller disposes it. */
  static async create(
    at: SharedTreePaths,
    mounts: MountSyscalls,
    journal: MountJournal,
  ): Promise<SharedTree> {
    await using undo = new UndoStack();
    const tree = undo.use("shared tree", new SharedTree(at, mounts, journal));
    await tree.#mount(tree.#undo, at.dir, at.dir, "none", ["bind", "private"]);
    makeDir(at.shared, 0o755);
    makeDir(at.sharedView, 0o755);
    // Private first: a peer of what it lies in would have each of its mounts there once more.
    await tree.#mount(tree.#undo, at.shared, at.shared, "none", ["bind", "private"]);
    await mounts.mount("none", at.shared, "none", ["shared"]);
    await tree.#mount(tree.#undo, at.shared, at.sharedView, "none", ["bind", "slave", "ro"]);
    // A volume of / or /run, with all below it, has no copy of this, and what is mounted here reaches no older one
    // (sharedsubtree.rst). Last: of what is unbindable nothing can be bound.
    await mounts.mount("none", at.dir, "none", ["unbindable"]);
    makeDir(path.join(at.shared, VOLUMES_NAME), 0o700);
    undo.move();
    return tree;
  }

  /**
   * Mounts the proof that late mounts cross. To be called after virtiofsd has its mount namespace.
   * @returns the content that the guest must read at SENTINEL_NAME.
   */
  async placeSentinel(): Promise<Uint8Array> {
    const dir = path.join(this.path, path.dirname(SENTINEL_NAME));
    makeDir(dir, 0o700);
    await this.#mount(this.#undo, "tmpfs", dir, "tmpfs", [
      "size=4k",
      "mode=0700",
      "nosuid",
      "nodev",
      "noexec",
    ]);
    const content = randomBytes(16);
    fs.writeFileSync(path.join(this.path, SENTINEL_NAME), content);
    return content;
  }

  /** Mounts a container's root file system. All or nothing. Preconditions: `id` is no other container's of now. */
  async addContainer(id: string, rootfs: readonly RootfsMount[]): Promise<SharedRoot> {
    await using undo = new UndoStack();
    const count = this.#containerCounts.get(id) ?? 0;
    this.#containerCounts.set(id, count + 1);
    // No id has a tilde (containerd pkg/identifiers).
    const ownName = count === 0 ? id : `${id}~${count}`;
    const dir = path.join(this.path, ownName);
    makeDir(dir, 0o700);
    undo.defer(`directory of ${id}`, () => {
      failPoint("release.container");
      removeTree(dir);
    });
    failPoint("container.directory");
    const root = path.join(dir, "rootfs");
    makeDir(root, 0o755);
    for (const mount of rootfs) await this.#mountRootfs(undo, mount, root);
    failPoint("container.mounted");
    return { name: path.join(ownName, "rootfs"), undo: undo.move() };
  }

  /**
   * Mounts a path of the host for the guest, or finds it mounted already, if it names the same file still. A reader gets the writers' mount where there
   * is one: its own read-only flag is set in the guest, which nothing here could enforce against a writer's container.
   * @param beforeUnmount called with the volume's name when its last holder has let go; must not throw.
   */
  async share(request: ShareRequest, beforeUnmount: (name: string) => Promise<void>): Promise<SharedVolume> {
    const volume = this.#find(request) ?? this.#add(request, beforeUnmount);
    volume.holders++;
    let held = true;
    const release = async (): Promise<void> => {
      if (!held) return;
      held = false;
      await this.#letGo(volume);
    };
    try {
      await volume.mounted;
    } catch (error) {
      this.#volumes.delete(volume);
      throw error;
    }
    return { name: volume.name, release };
  }

  #find({ source, recursive, readonly }: ShareRequest): Volume | undefined {
    const now = fileAt(source);
    const same = [...this.#volumes].filter(
      ({ request, file }) => request.source === source && file === now && request.recursive === recursive,
    );
    const writable = same.find(({ request }) => request.readonly === undefined);
    return writable ?? same.find(({ request }) => request.readonly === readonly);
  }

  #add(request: ShareRequest, beforeUnmount: (name: string) => Promise<void>): Volume {
    const name = path.join(VOLUMES_NAME, String(this.#volumeCount++));
    const volume: Volume = {
      request,
      file: fileAt(request.source),
      name,
      mounted: this.#mountVolume(request, name),
      beforeUnmount: () => beforeUnmount(name),
      holders: 0,
    };
    this.#volumes.add(volume);
    return volume;
  }

  async #letGo(volume: Volume): Promise<void> {
    volume.holders--;
    if (volume.holders > 0) return;
    this.#volumes.delete(volume);
    await volume.beforeUnmount();
    await (await volume.mounted).disposeAsync();
  }

  async #mountVolume(request: ShareRequest, name: string): Promise<UndoStack> {
    const { source, kind, readonly, recursive, destination } = request;
    await using undo = new UndoStack();
    const target = path.join(this.path, name);
    make(target, () =>
      kind === "dir" ? fs.mkdirSync(target) : fs.writeFileSync(target, "", { flag: "wx" }),
    );
    undo.defer(`volume ${target}`, () => removeTree(target));
    // Slave: what the host mounts below the source later is seen in the guest, and nothing goes back.
    const options = [recursive ? "rbind" : "bind", "rslave", ...(readonly ? [readonly] : [])];
    try {
      await this.#mount(undo, source, target, "none", options);
    } catch (error) {
      throw new SandboxError("ERR_HOST", `cannot mount ${source} for ${destination}`, { cause: error });
    }
    return undo.move();
  }

  #gone(): SandboxError {
    return new SandboxError("ERR_STATE", `${this.path} is not shared any more`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#undo.disposeAsync();
  }

  async #mountRootfs(undo: UndoStack, mount: RootfsMount, target: string): Promise<void> {
    // Slave: or what the host has mounted below the source would go with the container.
    const options = mount.type === "bind" ? [...mount.options, "rslave"] : mount.options;
    try {
      await this.#mount(undo, mount.source, target, mount.type, options);
    } catch (error) {
      throw new SandboxError(
        "ERR_HOST",
        `cannot mount the root file system (${mount.type} of ${mount.source})`,
        {
          cause: error,
          fields: { path: target },
        },
      );
    }
  }

  /** Journal first, then the mount, then its undo. */
  async #mount(
    undo: UndoStack,
    source: string,
    target: string,
    fstype: string,
    options: readonly string[],
  ): Promise<void> {
    // What lies at the path then is not ours to mount on: it is about to be removed.
    if (this.#undo.disposed) throw this.#gone();
    const record = this.#journal.add({ kind: "mount", path: target });
    undo.defer(`mount ${target}`, async () => {
      await this.#mounts.detach(target);
      this.#journal.done(record);
    });
    failPoint("mount.journalled");
    await this.#mounts.mount(source, target, fstype, options);
  }
}

const makeDir = (dir: string, mode: number): void => make(dir, () => fs.mkdirSync(dir, { mode }));

/** @throws ERR_HOST, or ERR_EXHAUSTED where the run directory is full; names the path. */
function make(file: string, run: () => void): void {
  try {
    run();
  } catch (error) {
    const code = errnoOf(error) === "ENOSPC" ? "ERR_EXHAUSTED" : "ERR_HOST";
    throw new SandboxError(code, `cannot create ${file}`, { cause: error });
  }
}

/** Device and inode at `path`, as a text; empty where nothing can be seen there, which the mount will tell. */
function fileAt(path: string): string {
  try {
    const { dev, ino } = fs.statSync(path, { bigint: true });
    return `${dev}:${ino}`;
  } catch {
    return "";
  }
}
