/**
 * What the agent asks of the container side (src/container/). The service, the stdio streams and the event
 * channel see containers only through this interface.
 *
 * `execId` is "" for a container's init process. All failures are SandboxErrors: ERR_NOT_FOUND (no such container or
 * process), ERR_ALREADY_EXISTS, ERR_STATE (wrong moment), ERR_PROCESS_FINISHED (signal after exit), ERR_SPEC,
 * ERR_START_PROCESS (missing binary, bad user, ...).
 */

import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Log } from "../../src/base/log.ts";
import type {
  ContainerStatsResponse,
  ContainerStatsResponseSchema,
  CreateContainerRequest,
  CreateExecRequest,
  ListProcessesResponse,
  ListProcessesResponseSchema,
} from "../../src/gen/caisson/agent/v1/agent_pb.ts";
import type { SandboxNamespaces } from "./container/sandbox-namespaces.ts";
import type { EventLoop } from "./event-loop.ts";
import type { ProcessStdio } from "./stdio/process-stdio.ts";

export type { ContainerStatsResponse, ListProcessesResponse };

/** The end of a process that the runtime had started. */
export interface ProcessExit {
  readonly containerId: string;
  readonly execId: string;
  readonly pid: number;
  /** Exit code, or 128 + signal number. */
  readonly status: number;
  readonly exitedAtUnixNano: bigint;
  /** Bytes in all that had been written to each by then. */
  readonly stdoutBytes: bigint;
  readonly stderrBytes: bigint;
}

/** A file to mount or copy into containers, or undefined where the sandbox has none. */
export interface SandboxSettings {
  readonly sandboxId: string;
  readonly hostname: string;
  /** Where the virtio-fs tree of the host is mounted: /run/caisson/shared. */
  readonly sharedPath: string;
  readonly sharePidNamespace: boolean;
}

export interface ContainerRuntimeDeps {
  readonly loop: EventLoop;
  readonly log: Log;
  /** Sent as soon as the process has been reaped; never waits for stdio. */
  readonly onExit: (exit: ProcessExit) => void;
  readonly onOutOfMemory: (containerId: string) => void;
  /** Loads the guest kernel's modules listed as `demand:<name>`; resolves at once where none is listed. */
  readonly demandModule: (name: string) => Promise<void>;
}

export interface ConsoleTarget {
  /** Its first process. */
  readonly pid: number;
  /** Environment and working directory of that process, as its spec has them. */
  readonly env: readonly string[];
  readonly cwd: string;
}

export interface ContainerRuntime {
  /** Makes what the first container needs and no sandbox changes. May be left out. @throws SysError */
  prepare(): void;

  /** Called once, by CreateSandbox, before any container. */
  configure(settings: SandboxSettings): void;

  /** Prepares namespaces, mounts, cgroup and the init process up to its execve within `limitMs`; resolves to its guest pid. */
  createContainer(request: CreateContainerRequest, limitMs: number): Promise<number>;
  /** Registers a process of a running container. */
  createExec(request: CreateExecRequest): Promise<void>;
  /** Resolves to the pid once the process has been exec'ed, within `limitMs`; ERR_START_PROCESS with the reason otherwise. */
  startProcess(containerId: string, execId: string, limitMs: number): Promise<number>;
  signalProcess(containerId: string, execId: string, signal: number, all: boolean): Promise<void>;
  resizeTerminal(containerId: string, execId: string, columns: number, rows: number): Promise<void>;
  /** Forgets an exited process and disposes its ProcessStdio; of the init process: removes the container. */
  deleteProcess(containerId: string, execId: string): Promise<void>;
  listProcesses(containerId: string): Promise<MessageInitShape<typeof ListProcessesResponseSchema>>;
  stats(containerId: string): Promise<MessageInitShape<typeof ContainerStatsResponseSchema>>;
  /** @param resourcesJson the OCI `linux.resources` object as UTF-8 JSON. */
  update(containerId: string, resourcesJson: Uint8Array): Promise<void>;
  pause(containerId: string): Promise<void>;
  resume(containerId: string): Promise<void>;

  /**
   * The stdio of a process, from CreateContainer/CreateExec until DeleteProcess; undefined when there is no such
   * process. The process object makes one ProcessStdio and gives it the parent's ends of the pipes or the pty master
   * (src/stdio/process-stdio.ts), which it owns from then on.
   */
  stdio(containerId: string, execId: string): ProcessStdio | undefined;

  /**
   * A child of PID 1 was reaped (the agent calls waitpid for all children, orphans included, and tells the runtime of
   * each one it might know). @param status the raw wait status of waitpid(2).
   */
  reaped(pid: number, status: number): void;

  /** What the debug console needs to enter a running container; undefined: no such container. */
  consoleTarget(containerId: string): ConsoleTarget | undefined;

  /** For children outside of containers. */
  readonly namespaces: Pick<SandboxNamespaces, "clone">;
  /** Mount point of cgroup2. */
  readonly cgroupRoot: string;

  /** Number of containers that exist. */
  readonly containerCount: number;

  /** Kills everything; resolves when no process is left or the time is up. Used by Shutdown. */
  stopAll(limitMs: number): Promise<void>;
}
