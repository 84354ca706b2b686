/** The container side of the agent: OCI containers behind the ContainerRuntime interface. */
import * as sys from "sys";
import { SandboxError } from "../../../src/base/errors.ts";
import type { Log } from "../../../src/base/log.ts";
import type {
  CreateContainerRequest,
  CreateExecRequest,
  Stdio,
} from "../../../src/gen/caisson/agent/v1/agent_pb.ts";
import type {
  ConsoleTarget,
  ContainerRuntime,
  ContainerRuntimeDeps,
  SandboxSettings,
} from "../container-runtime.ts";
import { cut } from "../cut.ts";
import { readText } from "../files.ts";
import type { ProcessStdio, StdioLayout } from "../stdio/process-stdio.ts";
import { callLog, currentCall, within } from "../tracing.ts";
import { mountSharedVolumes } from "../volumes/volumes.ts";
import { Cgroup } from "./cgroup.ts";
import { Container, type ContainerDeps } from "./container.ts";
import { type ContainerStats, collectStats, hugePageSizes } from "./container-stats.ts";
import type { PidNamespace } from "./launch.ts";
import type { ManagedProcess } from "./managed-process.ts";
import { type ContainerSpec, decodeContainerSpec, decodeProcessSpec, decodeResources } from "./oci-spec.ts";
import { SandboxNamespaces } from "./sandbox-namespaces.ts";

export interface ContainerRuntimeOptions {
  /** Mount point of cgroup2. */
  readonly cgroupRoot: string;
  /** Switches roots as in an initramfs although the agent's root is an ordinary mount (tests). */
  readonly forceMove: boolean;
}

/** Overrides for the agent as a plain process; init is never given these by a boot loader. */
const optionsFromEnvironment = (): ContainerRuntimeOptions => ({
  cgroupRoot: sys.getenv("CAISSON_CGROUP_ROOT") ?? "/sys/fs/cgroup",
  forceMove: sys.getenv("CAISSON_ROOT_SWITCH") === "move",
});

/** What containerd accepts as an id, and safe as a file name. */
const ID = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$/;
/** File systems that every kernel of ours has built in. */
const BUILT_IN = new Set(["", "bind", "proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2"]);
/** Bytes of /proc/net/dev and of one command line that are read at most. */
const PROC_LIMIT = 1 << 20;
/** Characters of a command line that are told: what the host keeps (src/shim/task-service.ts). */
const COMMAND_LIMIT = 4_096;
/** Of all of an answer: it must fit into 1 MiB, with some 30 bytes more for each process and 3 for a character. */
const COMMANDS_LIMIT = 128 << 10;

export function createContainerRuntime(
  deps: ContainerRuntimeDeps,
  options: ContainerRuntimeOptions = optionsFromEnvironment(),
): ContainerRuntime {
  return new Containers(deps, options);
}

class Containers implements ContainerRuntime {
  readonly #deps: ContainerRuntimeDeps;
  readonly #options: ContainerRuntimeOptions;
  readonly #containers = new Map<string, Container>();
  /** Ids whose creation is under way. */
  readonly #pending = new Set<string>();
  readonly #children = new Map<number, ManagedProcess>();
  readonly #namespaces = new SandboxNamespaces();
  #settings: SandboxSettings | undefined;

  constructor(deps: ContainerRuntimeDeps, options: ContainerRuntimeOptions) {
    this.#deps = deps;
    this.#options = options;
  }

  prepare(): void {
    Cgroup.prepare(this.#options);
  }

  configure(settings: SandboxSettings): void {
    if (this.#settings !== undefined) throw new SandboxError("ERR_STATE", "the sandbox exists already");
    if (settings.sharePidNamespace) this.#namespaces.sharePid();
    this.#settings = settings;
    // While the host has its answer and not yet sent a container.
    this.#deps.loop.setTimer(0, () => this.#prepareCgroups());
  }

  get containerCount(): number {
    return this.#containers.size;
  }

  async createContainer(request: CreateContainerRequest, limitMs: number): Promise<number> {
    const { containerId: id, rootfsPath } = request;
    if (!ID.test(id)) throw new SandboxError("ERR_INVALID_ARGUMENT", `"${id}" is not a valid container id`);
    if (this.#containers.has(id) || this.#pending.has(id)) {
      throw new SandboxError("ERR_ALREADY_EXISTS", `container ${id} exists already`);
    }
    const deps = this.#containerDeps();
    this.#pending.add(id);
    try {
      const decoded = decodeContainerSpec(sys.decodeUtf8(request.specJson));
      const layout = layoutOf(request.stdio);
      const spec = { ...decoded, process: { ...decoded.process, terminal: layout.terminal } };
      const call = currentCall();
      await this.#loadModules(spec, callLog(this.#deps.log));
      mountSharedVolumes(spec.mounts);
      const pidNamespace = this.#pidNamespace(spec);
      const init = { id, spec, rootfsPath, layout, pidNamespace };
      const container = await within(call, () => Container.create(deps, init, limitMs));
      this.#containers.set(id, container);
      // Not undefined: its creation waited for the child.
      return container.init.pid as number;
    } finally {
      this.#pending.delete(id);
    }
  }

  async createExec(request: CreateExecRequest): Promise<void> {
    const { containerId, execId } = request;
    if (!ID.test(execId))
      throw new SandboxError("ERR_INVALID_ARGUMENT", `"${execId}" is not a valid exec id`);
    const container = this.#container(containerId);
    const spec = decodeProcessSpec(sys.decodeUtf8(request.processJson));
    const layout = layoutOf(request.stdio);
    container.addExec(execId, { ...spec, terminal: layout.terminal }, layout);
  }

  async startProcess(containerId: string, execId: string, limitMs: number): Promise<number> {
    return await this.#container(containerId).start(execId, limitMs);
  }

  async signalProcess(containerId: string, execId: string, signal: number, all: boolean): Promise<void> {
    this.#container(containerId).signal(execId, signal, all);
  }

  async resizeTerminal(containerId: string, execId: string, columns: number, rows: number): Promise<void> {
    this.#container(containerId).resize(execId, columns, rows);
  }

  async deleteProcess(containerId: string, execId: string): Promise<void> {
    const container = this.#container(containerId);
    if (execId !== "") return container.deleteExec(execId);
    await container.delete();
    this.#containers.delete(containerId);
  }

  async listProcesses(containerId: string) {
    const container = this.#container(containerId);
    const execIds = new Map(container.execs.map(({ pid, execId }) => [pid, execId]));
    let left = COMMANDS_LIMIT;
    const processes = container.cgroup.processes().map((pid) => {
      const command = left > 0 ? cut(commandOf(pid), Math.min(left, COMMAND_LIMIT)) : "";
      left -= command.length;
      return { pid, execId: execIds.get(pid) ?? "", command };
    });
    return { processes };
  }

  async stats(containerId: string): Promise<ContainerStats> {
    const { cgroup } = this.#container(containerId);
    const netDev = readText("/proc/net/dev", PROC_LIMIT) ?? "";
    return collectStats((file) => cgroup.read(file), netDev, hugePageSizes(sys.readdir(cgroup.path)));
  }

  async update(containerId: string, resourcesJson: Uint8Array): Promise<void> {
    this.#container(containerId).update(decodeResources(sys.decodeUtf8(resourcesJson)));
  }

  async pause(containerId: string): Promise<void> {
    await this.#container(containerId).setPaused(true);
  }

  async resume(containerId: string): Promise<void> {
    await this.#container(containerId).setPaused(false);
  }

  stdio(containerId: string, execId: string): ProcessStdio | undefined {
    const container = this.#containers.get(containerId);
    if (execId === "") return container?.init.stdio;
    return container?.execs.find((process) => process.execId === execId)?.stdio;
  }

  consoleTarget(containerId: string): ConsoleTarget | undefined {
    const container = this.#containers.get(containerId);
    if (container?.init.pid === undefined || container.init.state !== "running") return undefined;
    const { env, cwd } = container.spec.process;
    return { pid: container.init.pid, env, cwd };
  }

  get namespaces(): SandboxNamespaces {
    return this.#namespaces;
  }

  get cgroupRoot(): string {
    return this.#options.cgroupRoot;
  }

  reaped(pid: number, status: number): void {
    const process = this.#children.get(pid);
    if (process === undefined) return;
    this.#children.delete(pid);
    const exitedAtUnixNano = sys.realtimeNs();
    process.reaped(status, () => this.#tellExit(process, pid, exitedAtUnixNano));
  }

  async stopAll(limitMs: number): Promise<void> {
    const log = callLog(this.#deps.log);
    const outcomes = await Promise.allSettled([...this.#containers.values()].map((one) => one.kill(limitMs)));
    for (const outcome of outcomes) {
      if (outcome.status === "rejected")
        log.warn({ err: String(outcome.reason) }, "a container did not stop");
    }
    this.#namespaces.dispose();
  }

  #tellExit(process: ManagedProcess, pid: number, exitedAtUnixNano: bigint): void {
    const { containerId, execId, status, stdio } = process;
    const container = this.#containers.get(containerId);
    // A creation that failed: its caller was told, nobody else knows of it.
    if (container === undefined || status === undefined) return;
    if (execId === "") container.initEnded();
    const stdoutBytes = BigInt(stdio.stdout?.written ?? 0);
    const stderrBytes = BigInt(stdio.stderr?.written ?? 0);
    this.#deps.onExit({ containerId, execId, pid, status, exitedAtUnixNano, stdoutBytes, stderrBytes });
  }

  #container(id: string): Container {
    const container = this.#containers.get(id);
    if (container === undefined) throw new SandboxError("ERR_NOT_FOUND", `there is no container ${id}`);
    return container;
  }

  /**
   * A pid namespace with a path is another's (docs/containers.md): the pod's, or where the pod has none, that of the one
   * container that runs.
   */
  #pidNamespace(spec: ContainerSpec): PidNamespace {
    const namespace = spec.linux.namespaces.find(({ type }) => type === "pid");
    if (namespace === undefined) return "agent";
    if (this.#settings?.sharePidNamespace === true) return "pod";
    if (namespace.path === "") return "new";
    if (this.#namespaces.sharedPid !== undefined) return "pod";
    const running = [...this.#containers.values()].filter(({ init }) => init.state === "running");
    if (running.length > 1) {
      throw new SandboxError(
        "ERR_UNSUPPORTED",
        "it cannot be told whose processes this container shall see: the containers of a virtual machine have one process id on the host; use shareProcessNamespace",
      );
    }
    const pid = running[0]?.init.pid;
    if (pid !== undefined) return pid;
    this.#namespaces.sharePid();
    return "pod";
  }

  #containerDeps(): ContainerDeps {
    const settings = this.#settings;
    if (settings === undefined) {
      throw new SandboxError("ERR_STATE", "a container needs a sandbox: call CreateSandbox first");
    }
    const { loop, log, onExit, onOutOfMemory } = this.#deps;
    return {
      loop,
      log,
      namespaces: this.#namespaces,
      cgroupRoot: this.#options.cgroupRoot,
      sharedPath: settings.sharedPath,
      forceMove: this.#options.forceMove,
      onExit,
      onOutOfMemory,
      track: (pid, process) => this.#children.set(pid, process),
    };
  }

  #prepareCgroups(): void {
    try {
      this.prepare();
    } catch {
      // The first container tries again and says why.
    }
  }

  /** Done here because the child that mounts cannot wait for anything. */
  async #loadModules(spec: ContainerSpec, log: Log): Promise<void> {
    const types = new Set(spec.mounts.map(({ type }) => type).filter((type) => !BUILT_IN.has(type)));
    for (const type of types) await this.#deps.demandModule(type);
    for (const key of ["apparmorProfile", "selinuxLabel"] as const) {
      if (spec.process[key] !== "") log.warn({ op: key }, "ignored: the guest has no such security module");
    }
  }
}

function layoutOf(stdio: Stdio | undefined): StdioLayout {
  const { terminal = false, stdin = false, stdout = false, stderr = false } = stdio ?? {};
  return { terminal, stdin, stdout, stderr };
}

/** The arguments, else the name of a kernel thread or zombie. */
function commandOf(pid: number): string {
  try {
    const line = sys.decodeUtf8(sys.readFile(`/proc/${pid}/cmdline`, PROC_LIMIT)).replace(/\0+$/, "");
    return line === "" ? (readText(`/proc/${pid}/comm`) ?? "").trim() : line.replaceAll("\0", " ");
  } catch {
    // It ended meanwhile.
    return "";
  }
}
