/**
 * One container: its cgroup, its first process and further ones. Created, it has a child that has set everything up
 * and waits for the word to execute its program.
 */
import * as sys from "sys";
import { SandboxError } from "../../../src/base/errors.ts";
import type { Log } from "../../../src/base/log.ts";
import type { ProcessExit } from "../container-runtime.ts";
import type { EventLoop } from "../event-loop.ts";
import { SIGKILL, sysCode } from "../linux.ts";
import { ProcessStdio, type StdioLayout } from "../stdio/process-stdio.ts";
import { Cgroup, eventValue } from "./cgroup.ts";
import { applyDeviceRules, type DeviceFilter } from "./device-filter.ts";
import type { AgentChannel } from "./handshake.ts";
import { executeInit, type LaunchContext, launchExec, launchInit, type PidNamespace } from "./launch.ts";
import { ManagedProcess } from "./managed-process.ts";
import type { ContainerSpec, ProcessSpec, ResourceSpec } from "./oci-spec.ts";
import { type CgroupWrite, planResources, splitForSetup } from "./resource-plan.ts";
import type { SandboxNamespaces } from "./sandbox-namespaces.ts";
import { compileSeccomp } from "./seccomp.ts";

/** Milliseconds for killed processes to be gone, and for freezing. */
const CGROUP_LIMIT_MS = 10_000;

export interface ContainerDeps {
  readonly loop: EventLoop;
  readonly log: Log;
  readonly namespaces: SandboxNamespaces;
  readonly cgroupRoot: string;
  readonly sharedPath: string;
  readonly forceMove: boolean;
  readonly onExit: (exit: ProcessExit) => void;
  readonly onOutOfMemory: (containerId: string) => void;
  /** Registers a child for `reaped`. */
  readonly track: (pid: number, process: ManagedProcess) => void;
}

export interface ContainerInit {
  readonly id: string;
  readonly spec: ContainerSpec;
  readonly rootfsPath: string;
  readonly layout: StdioLayout;
  readonly pidNamespace: PidNamespace;
}

interface Exec {
  readonly process: ManagedProcess;
  readonly spec: ProcessSpec;
}

export class Container {
  readonly id: string;
  readonly spec: ContainerSpec;
  readonly cgroup: Cgroup;
  readonly init: ManagedProcess;
  readonly #deps: ContainerDeps;
  readonly #execs = new Map<string, Exec>();
  readonly #launch: LaunchContext;
  /** Limits that wait until the program runs. */
  #late: readonly CgroupWrite[] = [];
  #channel: AgentChannel | undefined;
  #paused = false;
  #oomKills = 0n;
  #devices: DeviceFilter | undefined;
  readonly #stops: (() => void)[] = [];

  private constructor(deps: ContainerDeps, init: ContainerInit, cgroup: Cgroup) {
    this.#deps = deps;
    this.id = init.id;
    this.spec = init.spec;
    this.cgroup = cgroup;
    this.init = new ManagedProcess(init.id, "", new ProcessStdio(deps.loop, init.layout));
    const { seccomp } = init.spec.linux;
    const { loop, namespaces, sharedPath, forceMove, track } = deps;
    this.#launch = {
      loop,
      namespaces,
      pidNamespace: init.pidNamespace,
      cgroup,
      spec: init.spec,
      seccomp: seccomp === undefined ? undefined : compileSeccomp(seccomp),
      sharedPath,
      forceMove,
      homes: new Map(),
      track,
    };
  }

  /** Resolves when the first process is ready to execute its program; when it rejects, nothing is left. */
  static async create(deps: ContainerDeps, init: ContainerInit, limitMs: number): Promise<Container> {
    const cgroup = Cgroup.create(deps, init.id);
    let container: Container | undefined;
    try {
      container = new Container(deps, init, cgroup);
      await container.#prepare(init.rootfsPath, limitMs);
      return container;
    } catch (error) {
      if (container === undefined) await cgroup.remove(CGROUP_LIMIT_MS);
      else await container.#release();
      throw error;
    }
  }

  get paused(): boolean {
    return this.#paused;
  }

  get execs(): readonly ManagedProcess[] {
    return [...this.#execs.values()].map(({ process }) => process);
  }

  /** @throws ERR_NOT_FOUND */
  process(execId: string): ManagedProcess {
    const process = execId === "" ? this.init : this.#execs.get(execId)?.process;
    if (process === undefined) {
      throw new SandboxError("ERR_NOT_FOUND", `container ${this.id} has no exec ${execId}`);
    }
    return process;
  }

  /** @throws ERR_STATE unless the first process runs, ERR_ALREADY_EXISTS */
  addExec(execId: string, spec: ProcessSpec, layout: StdioLayout): void {
    this.#requireRunning("take an exec");
    if (this.#execs.has(execId)) {
      throw new SandboxError("ERR_ALREADY_EXISTS", `container ${this.id} has an exec ${execId} already`);
    }
    const process = new ManagedProcess(this.id, execId, new ProcessStdio(this.#deps.loop, layout));
    this.#execs.set(execId, { process, spec });
  }

  /** Resolves to the pid when the program runs. @throws ERR_START_PROCESS with the reason why it does not. */
  async start(execId: string, limitMs: number): Promise<number> {
    const process = this.process(execId);
    if (this.#paused) throw new SandboxError("ERR_STATE", `container ${this.id} is paused`);
    const exec = this.#execs.get(execId);
    if (exec !== undefined) this.#requireRunning("start an exec");
    process.beginStart();
    try {
      if (exec === undefined) await this.#startInit(limitMs);
      // Not undefined: the first process runs.
      else await launchExec(this.#launch, exec.process, exec.spec, this.init.pid as number, limitMs);
      process.started();
    } catch (error) {
      process.failed();
      if (execId === "" || process.stdio.layout.terminal) process.stdio.dispose();
      throw error;
    } finally {
      // After the answer is on its way.
      this.#deps.loop.setTimer(0, () => process.settle());
    }
    // Set by the clone that the start waited for.
    return process.pid as number;
  }

  signal(execId: string, signal: number, all: boolean): void {
    if (all) this.#signalAll(signal);
    else this.#signalOne(this.process(execId), signal);
  }

  #signalOne(process: ManagedProcess, signal: number): void {
    // By status, not state: a number that was reaped may be another process's by now.
    if (process.status !== undefined) throw process.finished();
    if (process.pid === undefined)
      throw new SandboxError("ERR_STATE", `${process.name} has not been started`);
    // A child that waits in a pid namespace of its own ignores everything else (pid_namespaces(7)).
    const waiting = process.state === "registered" && signal !== 0;
    try {
      sys.kill(process.pid, waiting ? SIGKILL : signal);
    } catch (error) {
      if (sysCode(error) === "ESRCH") throw process.finished();
      throw new SandboxError("ERR_INVALID_ARGUMENT", `cannot send signal ${signal} to ${process.name}`, {
        cause: error,
      });
    }
  }

  resize(execId: string, columns: number, rows: number): void {
    const process = this.process(execId);
    if (!process.stdio.layout.terminal)
      throw new SandboxError("ERR_STATE", `${process.name} has no terminal`);
    process.size = { columns, rows };
    const { terminalFd } = process.stdio;
    if (terminalFd !== undefined) sys.setWindowSize(terminalFd, columns, rows);
  }

  async setPaused(paused: boolean): Promise<void> {
    this.#requireRunning(paused ? "be paused" : "be resumed");
    try {
      await this.cgroup.setFrozen(paused, CGROUP_LIMIT_MS);
    } catch (error) {
      // Or it would happen later, when nobody expects it.
      this.cgroup.write("cgroup.freeze", this.#paused ? "1" : "0");
      throw error;
    }
    this.#paused = paused;
  }

  update(resources: ResourceSpec): void {
    this.cgroup.apply(planResources(resources, this.cgroup.read("cpu.max")));
    if (resources.devices.length > 0) this.#applyDevices(resources);
  }

  /** @throws ERR_STATE while it runs */
  deleteExec(execId: string): void {
    const process = this.process(execId);
    if (process.state === "starting" || process.state === "running") {
      throw new SandboxError("ERR_STATE", `${process.name} cannot be deleted: it is ${process.state}`);
    }
    process.stdio.dispose();
    this.#execs.delete(execId);
  }

  /** Removes everything the container holds. May be called again when it failed. @throws ERR_STATE while it runs */
  async delete(): Promise<void> {
    const { state } = this.init;
    if (state === "starting" || state === "running") {
      throw new SandboxError("ERR_STATE", `container ${this.id} cannot be deleted: it is ${state}`);
    }
    await this.#release();
  }

  /** Ends all processes, whatever they do; resolves when none is left. */
  async kill(limitMs: number): Promise<void> {
    if (!this.cgroup.populated) return;
    this.cgroup.kill();
    await this.cgroup.whenEmpty(limitMs);
  }

  /** Called for each end of the first process, before it is told. */
  initEnded(): void {
    this.checkOutOfMemory(this.cgroup.read("memory.events") ?? "");
    // Without a pid namespace of its own nothing else ends the container's other processes.
    if (this.cgroup.read("cgroup.events") !== undefined) this.cgroup.kill();
    this.#channel?.close();
  }

  /** Tells kills that were not told yet. */
  checkOutOfMemory(memoryEvents: string): void {
    const kills = eventValue(memoryEvents, "oom_kill");
    if (kills <= this.#oomKills) return;
    this.#oomKills = kills;
    this.#deps.onOutOfMemory(this.id);
  }

  async #prepare(rootfsPath: string, limitMs: number): Promise<void> {
    const { spec } = this;
    const writes = planResources(spec.linux.resources ?? NO_RESOURCES);
    const { before, after } = splitForSetup(writes);
    this.cgroup.apply(before);
    this.#late = after;
    if (this.cgroup.read("memory.events") !== undefined) {
      this.#stops.push(this.cgroup.onChange("memory.events", (content) => this.checkOutOfMemory(content)));
    }
    const own = (channel: AgentChannel) => {
      this.#channel = channel;
    };
    await launchInit(this.#launch, this.init, rootfsPath, own, limitMs);
  }

  async #startInit(limitMs: number): Promise<void> {
    const channel = this.#channel;
    if (channel === undefined) throw this.init.finished();
    try {
      // Not before: the set-up mounts file systems from devices that the program may not open.
      if (this.spec.linux.resources !== undefined) this.#applyDevices(this.spec.linux.resources);
      await executeInit(channel, this.init, limitMs);
      this.cgroup.apply(this.#late);
      this.#late = [];
    } finally {
      channel.close();
      this.#channel = undefined;
    }
  }

  #signalAll(signal: number): void {
    if (this.init.state === "exited" && !this.cgroup.populated) throw this.init.finished();
    if (signal === SIGKILL) {
      this.cgroup.kill();
      return;
    }
    for (const pid of this.cgroup.processes()) {
      try {
        sys.kill(pid, signal);
      } catch (error) {
        if (sysCode(error) !== "ESRCH") throw error;
      }
    }
  }

  #requireRunning(what: string): void {
    if (this.init.state === "exited") {
      throw new SandboxError("ERR_STATE", `container ${this.id} cannot ${what}: it has exited`);
    }
    if (this.init.state === "running") return;
    throw new SandboxError("ERR_STATE", `container ${this.id} cannot ${what}: it has not been started`);
  }

  #applyDevices(resources: ResourceSpec): void {
    this.#devices = applyDeviceRules(this.cgroup, resources.devices, this.#devices, this.#deps.log);
  }

  async #release(): Promise<void> {
    this.#channel?.close();
    this.#channel = undefined;
    for (const stop of this.#stops.splice(0)) stop();
    await this.cgroup.remove(CGROUP_LIMIT_MS);
    this.#devices?.close();
    this.#devices = undefined;
    this.init.stdio.dispose();
    for (const { process } of this.#execs.values()) process.stdio.dispose();
    this.#execs.clear();
  }
}

const NO_RESOURCES: ResourceSpec = {
  devices: [],
  memory: undefined,
  cpu: undefined,
  pids: undefined,
  blockIO: undefined,
  hugepageLimits: [],
  unified: new Map(),
};
