/**
 * What containerd's task calls mean here: finds the sandbox and the process, does the work, publishes the events.
 * Knows no protobuf messages of the Task API (task-service.ts translates), so v2, v3 and tests share it.
 */
import { describeError, SandboxError } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import type { AsyncReleasable } from "../base/undo.ts";
import type { Config } from "../config/index.ts";
import { containerRole } from "../oci/annotations.ts";
import type { OciMount, OciProcess, OciResources, OciSpec } from "../oci/spec.ts";
import type { Container } from "../runtime/container.ts";
import type { ContainerProcess, ProcessExit } from "../runtime/container-process.ts";
import type { Sandbox, SandboxObserver } from "../runtime/sandbox.ts";
import type { StdioSpec } from "../runtime/stdio/open.ts";
import { markOutOfMemory, readBundleSpec, writeExit } from "./bundle.ts";
import type { CreateTask } from "./create-task.ts";
import { setPaused } from "./freeze.ts";
import type { StatsFormat } from "./metrics.ts";
import { podStats } from "./pod-stats.ts";
import type { TaskEvents } from "./task-events.ts";
import { assertAllowed, type TaskStatus, taskStatus } from "./task-state.ts";

export interface TaskState {
  readonly process: ContainerProcess;
  readonly bundle: string;
  readonly pid: number;
  readonly status: TaskStatus;
}

export interface TasksDeps {
  readonly log: Log;
  readonly events: TaskEvents;
  /** Makes (does not start) the sandbox of this shim. */
  openSandbox(request: SandboxRequest, observer: SandboxObserver): Promise<PreparedSandbox>;
  /** Told of the sandbox once its run directory exists. What it returns is disposed of after the sandbox. */
  onSandbox?(prepared: PreparedSandbox): Promise<AsyncReleasable>;
}

/** What a sandbox is made from: its first container, or a call of the Sandbox API. */
export interface SandboxRequest {
  readonly bundle: string;
  /** From containerd's runtime options; empty for the default search. */
  readonly configPath: string;
  readonly spec: OciSpec;
  /** Mounts that each container gets whose own spec has nothing at their destinations. */
  readonly podMounts?: readonly OciMount[];
  /** Called when the machine was lost unasked. */
  readonly lost?: () => void;
}

export interface PreparedSandbox {
  readonly sandbox: Sandbox;
  readonly config: Config;
  /** Turns a container's request into what the sandbox takes. @throws ERR_SPEC, ERR_UNSUPPORTED */
  plan(task: CreateTask): Parameters<Sandbox["createContainer"]>[0];
}

const SIGKILL = 9;

/** Removes a container whose caller has gone: it would wait for its start for ever. @throws always. */
async function abandoned(sandbox: Sandbox, id: string): Promise<never> {
  await sandbox.deleteProcess(id, "");
  throw new SandboxError("ERR_CANCELED", `container ${id} was given up: its creator has gone`);
}

/** A process of Pids; the pid is the guest's, but for a pause container's own. */
export interface PidInfo {
  readonly pid: number;
  readonly execId: string;
  readonly command: string;
}

export class Tasks {
  readonly #deps: TasksDeps;
  #prepared: PreparedSandbox | undefined;
  #rootId: string | undefined;
  #lastPid = 0;
  #stopped: Promise<void> | undefined;
  #discarding: Promise<unknown> = Promise.resolve();
  /** The sandbox was made by the Sandbox API: it stays without containers, and takes all that come. */
  #held = false;
  #attachment: Promise<AsyncReleasable> | undefined;
  /** By container id, whether its creation came to something: its exit is nobody's business before that is known. */
  readonly #creations = new Map<string, Promise<boolean>>();

  constructor(deps: TasksDeps) {
    this.#deps = deps;
  }

  /** Whether there is no sandbox: none was made, none is being made, and none of the Sandbox API has ended here. */
  get unused(): boolean {
    return this.#rootId === undefined;
  }

  /** Whether nothing is left that keeps the shim: no container, and no sandbox of the Sandbox API. */
  get idle(): boolean {
    return !this.#held && (this.#prepared?.sandbox.containers.length ?? 0) === 0;
  }

  /** @param signal aborts when nobody waits for the answer any more (containerd was killed): all is undone then. */
  async create(task: CreateTask, signal: AbortSignal): Promise<number> {
    const spec = readBundleSpec(task.bundle);
    const first = !this.#held && containerRole(spec.annotations).role !== "container";
    if (first) await this.#openSandbox(task.id, { ...task, spec }, task);
    const creation = this.#create(task, first, signal);
    const created = creation.then(
      () => true,
      () => false,
    );
    // A second Create of the same id is refused and says nothing of the first.
    if (!this.#creations.has(task.id)) this.#creations.set(task.id, created);
    try {
      return await creation;
    } finally {
      if (this.#creations.get(task.id) === created) this.#creations.delete(task.id);
    }
  }

  async #create(task: CreateTask, first: boolean, signal: AbortSignal): Promise<number> {
    const { sandbox, plan } = this.#open();
    const abandon = () => void sandbox.stop();
    if (first) signal.addEventListener("abort", abandon, { once: true });
    if (first && signal.aborted) abandon();
    try {
      await sandbox.createContainer(plan(task));
      if (signal.aborted) await abandoned(sandbox, task.id);
    } catch (error) {
      // The sandbox was made for this container: without it there is nothing to keep.
      if (first) await this.#discard();
      throw error;
    } finally {
      signal.removeEventListener("abort", abandon);
    }
    this.#deps.events.created(task, this.#pid());
    return this.#pid();
  }

  async start(id: string, execId: string): Promise<number> {
    const process = this.#process(id, execId);
    if (execId !== "" && process.state === "created") assertAllowed("start exec", this.#container(id));
    await process.start();
    this.#deps.events.started(process, this.#pid());
    process.announced();
    return this.#pid();
  }

  async exec(id: string, execId: string, spec: OciProcess, stdio: StdioSpec): Promise<void> {
    const { apparmorProfile: _profile, selinuxLabel: _label, ...process } = spec;
    const json = new TextEncoder().encode(JSON.stringify({ ...process, terminal: stdio.terminal }));
    assertAllowed("exec", this.#container(id));
    await this.#open().sandbox.createExec(id, execId, json, stdio);
    this.#deps.events.execAdded(id, execId);
  }

  state(id: string, execId: string): TaskState {
    const container = this.#container(id);
    const process = container.process(execId);
    return {
      process,
      bundle: container.bundle,
      pid: this.#pid(),
      status: taskStatus(process, container.paused),
    };
  }

  async kill(id: string, execId: string, signal: number, all: boolean): Promise<void> {
    const process = this.#process(id, execId);
    try {
      await process.kill(signal, all);
    } catch (error) {
      // A guest that no longer answers cannot be asked to kill: the machine is killed instead.
      const unresponsive = error instanceof SandboxError && error.code === "ERR_DEADLINE";
      if (!unresponsive || signal !== SIGKILL || execId !== "") throw error;
      this.#deps.log.error({ container: id }, "the guest does not answer; killing the machine");
      const { vm } = await this.#open().sandbox.machine();
      await vm.kill();
    }
  }

  wait(id: string, execId: string): Promise<ProcessExit> {
    return this.#process(id, execId).wait();
  }

  async delete(id: string, execId: string): Promise<ProcessExit & { pid: number }> {
    const pid = this.#pid();
    const process = this.#process(id, execId);
    const isRoot = execId === "" && id === this.#rootId && !this.#held;
    const exit = await this.#open()
      .sandbox.deleteProcess(id, execId)
      .catch((error: unknown) => {
        // The machine goes with its first container, whether or not the guest could clear up before.
        // Not while another Delete is at it, though: that one's output would be cut.
        if (!isRoot || process.exit === undefined || process.state !== "exited") throw error;
        this.#deps.log.warn({ err: describeError(error) }, `container ${id} is removed with its machine`);
        return process.exit;
      });
    if (isRoot) await this.#discard();
    if (execId === "") this.#deps.events.deleted(process, pid, exit);
    return { ...exit, pid };
  }

  async resize(id: string, execId: string, columns: number, rows: number): Promise<void> {
    await this.#process(id, execId).resize(columns, rows);
  }

  closeStdin(id: string, execId: string): void {
    this.#process(id, execId).closeStdin();
  }

  /**
   * The guest's processes of a container; for a pod's pause container itself, then those of the whole pod as far as they can
   * be had. containerd 1.7 and later take a task without processes for a leak when they restart (loadShims), and
   * forget it.
   */
  async pids(id: string): Promise<readonly PidInfo[]> {
    const { agent } = await this.#machineOf(id);
    const listed = async (containerId: string): Promise<readonly PidInfo[]> =>
      (await agent.calls.listProcesses({ containerId })).processes;
    const container = this.#container(id);
    if (container.inGuest) return await listed(id);
    const lists = await Promise.allSettled(this.#guestIds(id).map(listed));
    const own = container.process("").hasEnded ? [] : [{ pid: this.#pid(), execId: "", command: "pause" }];
    return [...own, ...lists.flatMap((list) => (list.status === "fulfilled" ? list.value : []))];
  }

  /** Which metrics message Stats answers with. */
  get statsFormat(): StatsFormat {
    return this.#open().config.runtime.statsFormat;
  }

  /** Of the whole pod for its pause container. */
  async stats(id: string) {
    const { agent } = await this.#machineOf(id);
    if (this.#container(id).inGuest) {
      return await agent.calls.containerStats({ containerId: id });
    }
    const all = this.#guestIds(id).map((containerId) => agent.calls.containerStats({ containerId }));
    return podStats(await Promise.all(all));
  }

  async update(id: string, resources: OciResources): Promise<void> {
    assertAllowed("update", this.#container(id));
    await this.#open().sandbox.updateContainer(id, resources);
  }

  async pause(id: string): Promise<void> {
    assertAllowed("pause", this.#container(id));
    await this.#setPaused(id, true);
    this.#deps.events.paused(id);
  }

  async resume(id: string): Promise<void> {
    assertAllowed("resume", this.#container(id));
    await this.#setPaused(id, false);
    this.#deps.events.resumed(id);
  }

  /** The pid that containerd shows for a task of this shim: the VMM's. 0 for a container that is not here. */
  taskPid(id: string): number {
    const known = this.#prepared?.sandbox.containers.some((container) => container.id === id) === true;
    return known ? this.#pid() : 0;
  }

  /** Makes and starts the sandbox without a container, for the Sandbox API. It is kept until `endHeld` or `stop`. */
  async hold(id: string, request: SandboxRequest): Promise<Sandbox> {
    await this.#openSandbox(id, request);
    this.#held = true;
    return this.#open().sandbox;
  }

  /** Ends a sandbox that is held, and whatever runs in it; no other can be made by this shim. Idempotent. */
  async endHeld(): Promise<void> {
    const id = this.#rootId;
    await this.#discard();
    this.#rootId = id;
  }

  /** Ends the sandbox, whatever runs in it. Idempotent. */
  stop(): Promise<void> {
    this.#stopped ??= this.#discard();
    return this.#stopped;
  }

  /** @param first its first container, refused before anything is started when its spec is bad. */
  async #openSandbox(id: string, request: SandboxRequest, first?: CreateTask): Promise<void> {
    if (this.#rootId !== undefined) {
      throw new SandboxError("ERR_ALREADY_EXISTS", `this shim serves the sandbox ${this.#rootId} already`);
    }
    this.#rootId = id;
    try {
      const prepared = await this.#deps.openSandbox(request, this.#observer(request));
      if (this.#stopped !== undefined) throw new SandboxError("ERR_CANCELED", "the shim is being ended");
      if (first !== undefined) prepared.plan(first);
      this.#prepared = prepared;
      await prepared.sandbox.start();
      this.#attachment = this.#deps.onSandbox?.(prepared);
    } catch (error) {
      await this.#discard();
      throw error;
    }
  }

  /** Resolves when nothing is being ended any more: also what an earlier call has begun with. */
  async #discard(): Promise<void> {
    const ending = this.#end();
    const earlier = this.#discarding;
    this.#discarding = Promise.allSettled([earlier, ending]);
    await earlier;
    await ending;
  }

  async #end(): Promise<void> {
    const prepared = this.#prepared;
    this.#prepared = undefined;
    this.#rootId = undefined;
    const attachment = this.#attachment;
    this.#attachment = undefined;
    await prepared?.sandbox.stop();
    await (await attachment)?.[Symbol.asyncDispose]();
  }

  #noteExit({ containerId, execId }: ContainerProcess, exit: ProcessExit): void {
    const container = this.#prepared?.sandbox.containers.find(({ id }) => id === containerId);
    if (execId === "" && container !== undefined) writeExit(container.bundle, exit);
  }

  #observer(request: SandboxRequest): SandboxObserver {
    return {
      // A shim that is killed from here on has not lost it.
      ended: (process, exit) => this.#noteExit(process, exit),
      exited: (process, exit) => void this.#exited(process, exit),
      outOfMemory: (containerId) => this.#outOfMemory(containerId),
      lost: () => request.lost?.(),
    };
  }

  /** Tells an exit once the creation and the start before it have been told. */
  async #exited(process: ContainerProcess, exit: ProcessExit): Promise<void> {
    const pid = this.#pid();
    if ((await this.#creations.get(process.containerId)) === false) return;
    this.#noteExit(process, exit);
    await process.startAnnounced;
    // An exec that never ran has no exit; a container's init waits in the guest from its creation on.
    if (process.ran || process.execId === "") this.#deps.events.exited(process, pid, exit);
  }

  #outOfMemory(containerId: string): void {
    this.#deps.events.outOfMemory(containerId);
    const bundle = this.#prepared?.sandbox.container(containerId).bundle;
    if (bundle !== undefined) markOutOfMemory(bundle, this.#deps.log);
  }

  #open(): PreparedSandbox {
    if (this.#prepared === undefined) throw new SandboxError("ERR_NOT_FOUND", "this shim has no sandbox");
    return this.#prepared;
  }

  /** @throws ERR_NOT_FOUND, also when the sandbox is not there (any more). */
  #container(id: string): Container {
    if (this.#prepared === undefined) throw new SandboxError("ERR_NOT_FOUND", `container ${id} not found`);
    return this.#prepared.sandbox.container(id);
  }

  #process(id: string, execId: string): ContainerProcess {
    return this.#container(id).process(execId);
  }

  /** What the task `id` is in the guest: the pause container of a pod stands for all its containers. */
  #inGuest(id: string): readonly Container[] {
    const { sandbox } = this.#open();
    const stands = sandbox.container(id).inGuest ? [sandbox.container(id)] : sandbox.containers;
    return stands.filter(({ inGuest }) => inGuest);
  }

  #guestIds(id: string): string[] {
    return this.#inGuest(id).map((container) => container.id);
  }

  async #setPaused(id: string, paused: boolean): Promise<void> {
    const { agent } = await this.#machineOf(id);
    await setPaused(this.#inGuest(id), paused, agent.calls);
    this.#container(id).paused = paused;
  }

  async #machineOf(id: string) {
    this.#container(id);
    return await this.#open().sandbox.machine();
  }

  /** Still known after the machine went: late events carry it. */
  #pid(): number {
    this.#lastPid = this.#prepared?.sandbox.vmPid || this.#lastPid;
    return this.#lastPid;
  }
}
