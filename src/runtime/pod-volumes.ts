/**
 * The volumes of a sandbox's containers: makes what a container's spec mounts, on the host and in the guest, and fills
 * the places where the guest has it into the spec. What several containers mount is made once.
 */
import type { GuestAgent } from "../agent/guest-agent.ts";
import { describeError, errnoOf, SandboxError } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { UndoStack } from "../base/undo.ts";
import type { BindPlan, MemoryPlan, MemoryVolume } from "../oci/rewrite.ts";
import type { OciMount, OciSpec } from "../oci/spec.ts";
import { atomicVersion, watchAtomicVolume } from "../resources/share/atomic-volume.ts";
import type { SharedTree } from "../resources/share/shared-tree.ts";

/** Where the guest sees the shared tree, and where it has volumes of its own (docs/protocol.md). */
const GUEST_SHARED = "/run/caisson/shared";
const GUEST_VOLUMES = "/run/caisson/volumes";
/** No inotify instance left (fs.inotify.max_user_instances, 128 for all of root's programs), or no watch. */
const WATCH_LIMITS: ReadonlySet<string> = new Set(["EMFILE", "ENOSPC"]);
/** How often the kubelet may exchange the files again while they are being copied. */
const COPY_ATTEMPTS = 3;

export interface PodVolumesDeps {
  readonly tree: SharedTree;
  readonly log: Log;
  /** The guest, once it runs. */
  agent(): Promise<GuestAgent>;
}

export interface VolumePlan {
  readonly spec: OciSpec;
  readonly binds: readonly BindPlan[];
  readonly memory: readonly MemoryPlan[];
}

export interface AttachedVolumes {
  /** With every mount's source in place. */
  readonly spec: OciSpec;
  /** Lets go of the volumes; owned by the caller. */
  readonly undo: UndoStack;
}

/** A copy in the guest that follows a directory of the host. */
interface Follower {
  readonly ready: Promise<void>;
  readonly close: () => Promise<void>;
  holders: number;
}

export class PodVolumes {
  readonly #deps: PodVolumesDeps;
  readonly #followers = new Map<string, Follower>();
  /** Guest paths of the file systems in memory, by identity. They last as long as the pod. */
  readonly #memory = new Map<string, string>();

  constructor(deps: PodVolumesDeps) {
    this.#deps = deps;
  }

  /** Makes what `plan` mounts. All or nothing. @throws ERR_HOST naming the path, or what the guest refuses. */
  async attach(plan: VolumePlan): Promise<AttachedVolumes> {
    await using undo = new UndoStack();
    const sources = new Map<number, string>();
    for (const bind of plan.binds) sources.set(bind.mountIndex, await this.#bind(bind, undo));
    for (const { mountIndex, volume } of plan.memory) {
      sources.set(mountIndex, await this.#memoryVolume(volume));
    }
    const mounts = (plan.spec.mounts ?? []).map((mount, index): OciMount => {
      const source = sources.get(index);
      return source === undefined ? mount : { ...mount, source };
    });
    return { spec: { ...plan.spec, mounts }, undo: undo.move() };
  }

  async #bind(bind: BindPlan, undo: UndoStack): Promise<string> {
    const shared = await this.#deps.tree.share(bind, (name) => this.#remove(`${GUEST_SHARED}/${name}`));
    undo.defer(`volume ${bind.destination}`, () => shared.release());
    if (!bind.copied) return `${GUEST_SHARED}/${shared.name}`;
    const guestPath = `${GUEST_VOLUMES}/${shared.name.split("/").at(-1)}`;
    const follower = this.#followers.get(guestPath) ?? this.#follow(bind.source, shared.name, guestPath);
    if (follower === undefined) return `${GUEST_SHARED}/${shared.name}`;
    follower.holders++;
    undo.defer(`copy of ${bind.destination}`, () => this.#letGo(guestPath, follower));
    await follower.ready;
    return guestPath;
  }

  /** @returns undefined where the host cannot watch it any more: the guest then has the original itself. */
  #follow(source: string, sharedName: string, guestPath: string): Follower | undefined {
    const { log } = this.#deps;
    let work: Promise<void> = Promise.resolve();
    let waiting = false;
    let closed = false;
    const warn = (error: unknown) =>
      log.warn({ path: source, err: describeError(error) }, "a change of a volume did not reach the guest");
    // One at a time, and one more for whatever changed meanwhile.
    const changed = () => {
      if (waiting || closed) return;
      waiting = true;
      work = work.then(async () => {
        waiting = false;
        if (!closed) await this.#copy(source, sharedName, guestPath).catch(warn);
      });
    };
    let watcher: ReturnType<typeof watchAtomicVolume>;
    try {
      watcher = watchAtomicVolume(source, changed, warn);
    } catch (error) {
      if (!WATCH_LIMITS.has(errnoOf(error) ?? "")) throw error;
      const text =
        "the host can watch no more files: changes of a volume reach the guest without inotify events";
      log.warn({ path: source, err: describeError(error) }, `${text} (sysctl fs.inotify)`);
      return undefined;
    }
    const ready = this.#copy(source, sharedName, guestPath);
    work = ready.catch(() => undefined);
    const close = async () => {
      closed = true;
      watcher.close();
      await work;
      await this.#remove(guestPath);
    };
    const follower = { ready, close, holders: 0 };
    this.#followers.set(guestPath, follower);
    return follower;
  }

  /** Makes the guest's copy what the host has now. */
  async #copy(source: string, sharedName: string, guestPath: string): Promise<void> {
    const { calls } = await this.#deps.agent();
    for (let attempt = 1; ; attempt++) {
      const version = atomicVersion(source);
      if (version === undefined) {
        throw new SandboxError("ERR_HOST", `${source} has no ..data any more`);
      }
      try {
        const copied = { sourcePath: sharedName, version };
        await calls.prepareVolume({ path: guestPath, kind: { case: "copied", value: copied } });
        return;
      } catch (error) {
        const exchanged = error instanceof SandboxError && error.code === "ERR_NOT_FOUND";
        if (!exchanged || attempt === COPY_ATTEMPTS) throw error;
      }
    }
  }

  async #letGo(guestPath: string, follower: Follower): Promise<void> {
    follower.holders--;
    if (follower.holders > 0) return;
    this.#followers.delete(guestPath);
    await follower.close();
  }

  /** Lets the guest forget a volume. Never rejects: a guest that is gone has forgotten. */
  async #remove(path: string): Promise<void> {
    try {
      const { calls } = await this.#deps.agent();
      await calls.removeVolume({ path });
    } catch (error) {
      this.#deps.log.debug({ path, err: describeError(error) }, "the guest was not told of a volume's end");
    }
  }

  async #memoryVolume({ identity, subPath, ...volume }: MemoryVolume): Promise<string> {
    const path = this.#memory.get(identity) ?? `${GUEST_VOLUMES}/memory${this.#memory.size}`;
    this.#memory.set(identity, path);
    const { calls } = await this.#deps.agent();
    const value = { ...volume, sizeBytes: BigInt(volume.sizeBytes), subPath };
    await calls.prepareVolume({ path, kind: { case: "memory", value } });
    return subPath === "" ? path : `${path}/${subPath}`;
  }
}
