/**
 * One sandbox: a microVM, the tree it shares with the host, the guest's agent, and the containers in it. Owns all of
 * them; whatever happens, `stop` leaves nothing behind. Knows no RPC types and no containerd.
 */

import type { GuestAgent } from "../agent/guest-agent.ts";
import { withDeadline } from "../base/deadline.ts";
import { describeError, primaryError, SandboxError } from "../base/errors.ts";
import { failPoint } from "../base/failpoint.ts";
import type { Log } from "../base/log.ts";
import { timeoutMs } from "../base/timeouts.ts";
import { reportsIn, traced } from "../base/trace.ts";
import { UndoStack } from "../base/undo.ts";
import type { Event } from "../gen/caisson/agent/v1/agent_pb.ts";
import { type BlockPlan, withGuestDevices } from "../oci/devices.ts";
import { type BindPlan, guestResources, type MemoryPlan } from "../oci/rewrite.ts";
import type { OciResources, OciSpec } from "../oci/spec.ts";
import type { RootfsMount, SharedTree } from "../resources/share/shared-tree.ts";
import { type BootInit, bootMachine, type Machine, type MachineDeps } from "./boot.ts";
import { Container } from "./container.ts";
import { ContainerProcess, type ProcessExit } from "./container-process.ts";
import { guestProcess } from "./guest-process.ts";
import { HostCpus } from "./host-cpus.ts";
import { pauseProcess } from "./pause-process.ts";
import { type DiskNumbers, PodDisks } from "./pod-disks.ts";
import { PodSize, type PodSizeInit } from "./pod-size.ts";
import { PodVolumes } from "./pod-volumes.ts";
import { nextSandboxState, type SandboxEvent, type SandboxState } from "./sandbox-state.ts";
import { hostQuota } from "./sizing.ts";
import type { StdioSpec } from "./stdio/open.ts";
import { Workspace, type WorkspaceInit } from "./workspace.ts";

/** What the owner of the sandbox learns unasked. */
export interface SandboxObserver {
  /** The guest has told an exit, which is told on (`exited`) when the output before it was read. */
  ended(process: ContainerProcess, exit: ProcessExit): void;
  /** A process ended, for whatever reason; called once for each. */
  exited(process: ContainerProcess, exit: ProcessExit): void;
  outOfMemory(containerId: string): void;
  /** The VM or a part of it died unasked; all processes have been settled as killed. */
  lost(reason: SandboxError): void;
}

export interface SandboxInit {
  /** containerd's namespace; logging binaries are told. */
  readonly namespace: string;
  readonly workspace: WorkspaceInit;
  readonly boot: Omit<BootInit, "workspace" | "onEvent">;
  readonly size: Pick<PodSizeInit, "boot" | "limits">;
  /** Milliseconds for the creation of a container in the guest. */
  readonly createLimitMs: number;
  /** One container without a pod, whose cgroup would limit it: its cpu time and weight hold for the sandbox's on the host. */
  readonly single: boolean;
  readonly observer: SandboxObserver;
  readonly log: Log;
}

export interface NewContainer {
  readonly id: string;
  readonly bundle: string;
  readonly stdio: StdioSpec;
  /** What runs in the guest; undefined for the pause container of a pod, which is the machine's own life. */
  readonly guest: GuestContainer | undefined;
}

export interface GuestContainer {
  /** Already rewritten for the guest. */
  readonly spec: OciSpec;
  /** As the container's own spec has them, which names cpus of the host. */
  readonly hostCpu: OciResources["cpu"];
  readonly binds: readonly BindPlan[];
  readonly memory: readonly MemoryPlan[];
  readonly blocks: readonly BlockPlan[];
  readonly rootfs: readonly RootfsMount[];
}

/** Where the guest sees the shared tree for root file systems (docs/protocol.md). */
const GUEST_ROOTS = "/run/caisson/roots";
/** Status of a process whose guest was lost: 128 + SIGKILL. */
const KILLED = 137;

export class Sandbox {
  readonly #init: SandboxInit;
  readonly #deps: MachineDeps;
  readonly #containers = new Map<string, Container>();
  /** Containers that are being created, by id. */
  readonly #creating = new Map<string, Promise<Container>>();
  /** The processes of what is being created: the guest may tell their end before it answers. */
  readonly #coming = new Set<ContainerProcess>();
  #state: SandboxState = "created";
  #workspace: Workspace | undefined;
  #volumes: PodVolumes | undefined;
  readonly #disks: PodDisks;
  readonly #size: PodSize;
  readonly #hostCpus: HostCpus;
  #starting: Promise<void> | undefined;
  #ready: Promise<Machine> | undefined;
  /** The agent of a machine that is not yet ready: what it is asked waits, in the guest, until that is. */
  #greeted: Promise<GuestAgent> | undefined;
  #machine: Machine | undefined;
  #loss: SandboxError | undefined;
  #bootFailure: SandboxError | undefined;
  #stopping: Promise<void> | undefined;
  readonly #aborter = new AbortController();

  constructor(deps: MachineDeps, init: SandboxInit) {
    this.#deps = deps;
    this.#init = init;
    this.#disks = new PodDisks({ log: init.log, machine: () => this.machine() });
    this.#size = new PodSize({
      ...init.size,
      log: init.log,
      machine: () => this.machine(),
      limitHostCpu: (cpus) => {
        // Not before the guest is ready: a boot in slices takes a multiple of its time.
        const limit = () => this.#workspace?.cgroup?.limitCpu(hostQuota(cpus));
        if (init.single) this.#ready?.then(limit, () => undefined);
      },
    });
    this.#hostCpus = new HostCpus(
      {
        single: init.single,
        limitCpuset: (cpuset) => this.#workspace?.cgroup?.limitCpuset(cpuset),
        setShares: (shares) => this.#workspace?.cgroup?.setShares(shares),
      },
      init.workspace.cgroup?.cpuset ?? { cpus: "", mems: "" },
    );
  }

  get state(): SandboxState {
    return this.#state;
  }
  /** The VMM's pid; 0 before it runs. */
  get vmPid(): number {
    return this.#machine?.vm.pid ?? 0;
  }
  /** The machine while it runs. */
  get runningMachine(): Machine | undefined {
    return this.#state === "running" ? this.#machine : undefined;
  }
  /** Why it failed, once it has. */
  get failure(): SandboxError | undefined {
    return this.#loss ?? this.#bootFailure;
  }
  get containers(): readonly Container[] {
    return [...this.#containers.values()];
  }
  /** Milliseconds of each boot step, by name. */
  get bootSteps(): Readonly<Record<string, number>> {
    return this.#machine?.steps ?? {};
  }

  /** The container `id`. @throws ERR_NOT_FOUND */
  container(id: string): Container {
    const found = this.#containers.get(id);
    if (found === undefined) throw new SandboxError("ERR_NOT_FOUND", `container ${id} not found`);
    return found;
  }

  /**
   * Makes the sandbox's place on the host and starts the machine, without waiting for it: containers may be created
   * at once and wait themselves. Valid in `created`. @throws when the place cannot be made, nothing is left then; and
   * ERR_CANCELED when it is stopped meanwhile.
   */
  start(): Promise<void> {
    this.#starting = this.#start();
    return this.#starting;
  }

  async #start(): Promise<void> {
    this.#step("boot");
    const network = this.#deps.reserveNetwork();
    try {
      this.#workspace = await traced("workspace make", () =>
        Workspace.create(this.#deps.mounts, this.#init.workspace),
      );
      this.#aborter.signal.throwIfAborted();
    } catch (error) {
      await network[Symbol.asyncDispose]();
      this.#step("fail");
      throw error;
    }
    let onGreeted: (agent: GuestAgent) => void = () => undefined;
    let onFailed: (reason: unknown) => void = () => undefined;
    this.#greeted = new Promise((resolve, reject) => {
      onGreeted = resolve;
      onFailed = reject;
    });
    this.#greeted.catch(() => undefined);
    const boot = {
      ...this.#init.boot,
      workspace: this.#workspace,
      onEvent: (event: Event) => this.#onEvent(event),
      onGreeted,
    };
    this.#ready = traced("boot", () => bootMachine(this.#deps, boot, this.#aborter.signal)).then((machine) =>
      this.#onReady(machine),
    );
    this.#ready.catch((error: unknown) => {
      onFailed(error);
      if (this.#state === "booting") this.#step("fail");
      const primary = primaryError(error);
      this.#bootFailure = primary instanceof SandboxError ? primary : undefined;
      this.#init.log.error({ err: describeError(error) }, "the sandbox did not boot");
    });
  }

  /** The machine once it runs. @throws why it did not boot or is gone. */
  async machine(): Promise<Machine> {
    if (this.#loss !== undefined) throw this.#loss;
    if (this.#ready === undefined || this.#state === "stopping" || this.#state === "stopped") {
      throw new SandboxError("ERR_STATE", `the sandbox is ${this.#state}`);
    }
    return await this.#ready;
  }

  /** Creates a container; its init process waits to be started. All or nothing. */
  async createContainer(request: NewContainer): Promise<Container> {
    const tree = this.#place().tree;
    if (this.#containers.has(request.id) || this.#creating.has(request.id)) {
      throw new SandboxError("ERR_ALREADY_EXISTS", `container ${request.id} exists already`);
    }
    const { guest } = request;
    const creating = guest === undefined ? this.#createPause(request) : this.#create(tree, request, guest);
    this.#creating.set(request.id, creating);
    try {
      return await creating;
    } finally {
      this.#creating.delete(request.id);
    }
  }

  /** Registers an additional process of a running container. What the guest has against it is told by its start, as by runc. */
  async createExec(containerId: string, execId: string, processJson: Uint8Array, stdio: StdioSpec) {
    const container = this.container(containerId);
    container.assertExecIdFree(execId);
    const { agent } = await this.machine();
    const process = await this.#newProcess(containerId, execId, stdio);
    try {
      container.addExec(process);
    } catch (error) {
      process.release();
      throw error;
    } finally {
      this.#coming.delete(process);
    }
    const created = agent.calls
      .createExec({ containerId, execId, processJson, stdio: guestStdio(stdio) })
      .then(() => failPoint("exec.created"));
    created.catch(() => undefined);
    const isLost = () => this.#loss !== undefined;
    process.bind(guestProcess(agent, process, { isLost, log: this.#init.log, created }));
    return process;
  }

  /**
   * Changes the limits of a container, and the machine's size with them where that is too small.
   * @throws ERR_EXHAUSTED, ERR_HOST when it cannot become large enough; nothing has changed then.
   */
  async updateContainer(id: string, resources: OciResources): Promise<void> {
    const { agent } = await this.machine();
    // The pause container has nothing to limit.
    if (!this.container(id).inGuest) return;
    const guest = guestResources(resources);
    const resourcesJson = new TextEncoder().encode(JSON.stringify(guest));
    await this.#size.update(id, guest, () => agent.calls.updateContainer({ containerId: id, resourcesJson }));
    this.#hostCpus.set(id, resources.cpu);
  }

  /** Deletes an exited process; for an init process the container goes too. @returns how it had ended. */
  async deleteProcess(containerId: string, execId: string): Promise<ProcessExit> {
    const container = this.container(containerId);
    const exit = await container.process(execId).delete();
    if (execId !== "") {
      container.forgetExec(execId);
      return exit;
    }
    this.#containers.delete(containerId);
    // Nobody would tell the end of those that still die, of which the guest knows nothing any more.
    for (const exec of container.execs) exec.settle({ status: KILLED, exitedAt: new Date() });
    try {
      await container.release();
    } catch (error) {
      // Told as a failure it would be tried again on a container that is gone. The journal has what is left.
      this.#init.log.error({ err: describeError(error) }, `container ${containerId} left something behind`);
    }
    return exit;
  }

  /** Ends the machine and removes everything. Idempotent; never throws: what fails is logged and left to `delete`. */
  stop(): Promise<void> {
    this.#stopping ??= this.#stop();
    return this.#stopping;
  }

  async #createPause({ id, bundle }: NewContainer): Promise<Container> {
    await this.machine();
    const process = await this.#newProcess(id, "", { stdin: "", stdout: "", stderr: "", terminal: false });
    process.bind(pauseProcess(process));
    const container = new Container({ id, bundle, init: process, undo: new UndoStack(), inGuest: false });
    this.#containers.set(id, container);
    this.#coming.delete(process);
    if (this.#loss !== undefined) process.settle({ status: KILLED, exitedAt: new Date() });
    return container;
  }

  async #create(tree: SharedTree, request: NewContainer, guest: GuestContainer): Promise<Container> {
    const process = await this.#newProcess(request.id, "", request.stdio);
    const undo = new UndoStack();
    try {
      const rootfs = await traced("rootfs mount", () => tree.addContainer(request.id, guest.rootfs));
      undo.use("root file system", rootfs.undo);
      const agent = await this.#agent();
      const volumes = await traced("volumes attach", () => this.#podVolumes(tree).attach(guest));
      undo.use("volumes", volumes.undo);
      const numbers: DiskNumbers[] = [];
      for (const block of guest.blocks)
        numbers.push(await traced("disk attach", () => this.#disks.attach(block, undo)));
      const spec = withGuestDevices(volumes.spec, guest.blocks, numbers);
      await this.#size.admit(request.id, spec.linux?.resources);
      undo.defer("room", () => void this.#size.release(request.id));
      this.#hostCpus.set(request.id, guest.hostCpu);
      undo.defer("cpus of the host", () => this.#hostCpus.remove(request.id));
      const created = agent.calls.createContainer(
        {
          containerId: request.id,
          specJson: new TextEncoder().encode(JSON.stringify(spec)),
          rootfsPath: `${GUEST_ROOTS}/${rootfs.name}`,
          stdio: guestStdio(request.stdio),
        },
        { timeoutMs: this.#init.createLimitMs },
      );
      created.catch(() => undefined);
      // Why it did not boot, where it did not.
      const machine = await this.machine();
      await created;
      failPoint("container.created");
      process.bind(
        guestProcess(agent, process, {
          isLost: () => this.#loss !== undefined,
          log: this.#init.log,
          beforeStart: () => machine.networkSettled(),
        }),
      );
      const { id, bundle } = request;
      const container = new Container({ id, bundle, init: process, undo, inGuest: true });
      this.#containers.set(request.id, container);
      if (this.#loss !== undefined) process.settle({ status: KILLED, exitedAt: new Date() });
      return container;
    } catch (error) {
      process.release();
      await undo.disposeAsync().catch((failure: unknown) => {
        this.#init.log.warn({ err: describeError(failure) }, `container ${request.id} left mounts behind`);
      });
      throw error;
    } finally {
      this.#coming.delete(process);
    }
  }

  /** Of a machine that boots, as soon as it takes calls. @throws as machine() */
  async #agent(): Promise<GuestAgent> {
    if (this.#state === "booting" && this.#greeted !== undefined) return await this.#greeted;
    return (await this.machine()).agent;
  }

  #podVolumes(tree: SharedTree): PodVolumes {
    this.#volumes ??= new PodVolumes({
      tree,
      log: this.#init.log,
      agent: async () => (await this.machine()).agent,
    });
    return this.#volumes;
  }

  async #newProcess(containerId: string, execId: string, stdio: StdioSpec): Promise<ContainerProcess> {
    const log = this.#init.log.child(
      execId === "" ? { container: containerId } : { container: containerId, exec: execId },
    );
    const { namespace } = this.#init;
    const process = await ContainerProcess.open({ containerId, execId, stdio, namespace, log });
    this.#coming.add(process);
    void process.wait().then((exit) => this.#init.observer.exited(process, exit));
    return process;
  }

  #onReady(machine: Machine): Machine {
    this.#machine = machine;
    if (this.#state !== "booting") return machine; // stop() came first and tears it down
    this.#step("ready");
    void machine.lost.then((reason) => this.#onLost(reason));
    return machine;
  }

  #onEvent(event: Event): void {
    const { event: it } = event;
    if (it.case === "processExited") {
      const { containerId, execId, status, exitedAtUnixNano, stdoutBytes, stderrBytes } = it.value;
      const exitedAt = new Date(Number(exitedAtUnixNano / 1_000_000n));
      const written = { stdout: Number(stdoutBytes), stderr: Number(stderrBytes) };
      const process = this.#findProcess(containerId, execId);
      if (process === undefined || process.hasEnded) return;
      this.#init.observer.ended(process, { status, exitedAt });
      void process.ended({ status, exitedAt }, written);
    } else if (it.case === "outOfMemory") {
      const { containerId } = it.value;
      if (this.#containers.get(containerId)?.noteOutOfMemory()) this.#init.observer.outOfMemory(containerId);
    }
  }

  #findProcess(containerId: string, execId: string): ContainerProcess | undefined {
    const container = this.#containers.get(containerId);
    const known = container === undefined ? [] : [container.init, ...container.execs];
    return [...known, ...this.#coming].find(
      (process) => process.containerId === containerId && process.execId === execId,
    );
  }

  #onLost(reason: SandboxError): void {
    if (this.#state !== "running") return;
    this.#loss = reason;
    this.#step("fail");
    this.#init.log.error({ err: describeError(reason) }, "the sandbox was lost");
    // What nobody can reach must not go on running, and calls that wait for it need not wait for their deadline.
    this.#machine?.agent.abandon(reason);
    void this.#machine?.vm.kill();
    const exit = { status: KILLED, exitedAt: new Date() };
    for (const container of this.#containers.values()) {
      for (const process of [...container.execs, container.init]) process.settle(exit);
    }
    this.#init.observer.lost(reason);
  }

  async #stop(): Promise<void> {
    const wasBooting = this.#state === "booting";
    if (nextSandboxState(this.#state, "stop") !== undefined) this.#step("stop");
    const exit = { status: KILLED, exitedAt: new Date() };
    this.#aborter.abort(new SandboxError("ERR_CANCELED", "the sandbox is being stopped"));
    // A place that is still being made is there afterwards.
    await this.#starting?.catch(() => undefined);
    if (wasBooting) await this.#ready?.catch(() => undefined);
    await this.#teardown("machine", () => this.#endMachine());
    await this.#teardown("containers being created", () => this.#settled([...this.#creating.values()]));
    // Only now: one that was being created may have become complete before the machine ended.
    for (const container of this.containers) {
      await this.#teardown(`container ${container.id}`, () => {
        for (const process of [...container.execs, container.init]) process.settle(exit);
        return container.release();
      });
    }
    await this.#teardown("workspace", () => this.#removeWorkspace());
    this.#containers.clear();
    this.#state = "stopped";
  }

  async #teardown(step: string, run: () => Promise<void>): Promise<void> {
    try {
      await run();
    } catch (error) {
      this.#init.log.error({ step, err: describeError(error) }, "teardown step failed");
    }
  }

  /** Waits for what fails by itself once the machine has gone, and undoes what it did. */
  async #settled(creating: readonly Promise<Container>[]): Promise<void> {
    await withDeadline(Promise.allSettled(creating), timeoutMs("teardown"), "undoing a creation");
  }

  async #endMachine(): Promise<void> {
    failPoint("stop.machine");
    // The guest reports a call after its answer: the last one's report would go down with the machine.
    await reportsIn(timeoutMs("guestReport"));
    await traced("machine end", async () => this.#machine?.[Symbol.asyncDispose](), { adopts: true });
  }

  async #removeWorkspace(): Promise<void> {
    failPoint("stop.workspace");
    await traced("workspace remove", async () => this.#workspace?.[Symbol.asyncDispose]());
  }

  #place(): Workspace {
    if (this.#aborter.signal.aborted) throw new SandboxError("ERR_STATE", "the sandbox is being stopped");
    if (this.#workspace === undefined) throw new SandboxError("ERR_STATE", `the sandbox is ${this.#state}`);
    return this.#workspace;
  }

  #step(event: SandboxEvent): void {
    const next = nextSandboxState(this.#state, event);
    if (next === undefined)
      throw new SandboxError("ERR_STATE", `the sandbox cannot ${event}: it is ${this.#state}`);
    this.#state = next;
  }
}

const guestStdio = (stdio: StdioSpec) => ({
  terminal: stdio.terminal,
  stdin: stdio.stdin !== "",
  stdout: stdio.stdout !== "",
  stderr: stdio.stderr !== "" && !stdio.terminal,
});
