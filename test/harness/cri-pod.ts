/** A pod and its containers as a kubelet handles them. */

import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { scaledMs } from "../../src/base/timeouts.ts";
import {
  type ContainerConfigSchema,
  ContainerState,
  type ContainerStatus,
  type LinuxContainerResourcesSchema,
  type LinuxContainerSecurityContextSchema,
  type LinuxPodSandboxConfigSchema,
  type LinuxSandboxSecurityContextSchema,
  NamespaceMode,
  type PodSandboxConfigSchema,
  type PodSandboxStatus,
} from "../../src/gen/runtime/v1/api_pb.ts";
import type { CriClient } from "./cri-client.ts";
import { TOOL_IMAGE } from "./cri-images.ts";

type PodConfig = MessageInitShape<typeof PodSandboxConfigSchema>;
type ContainerConfig = MessageInitShape<typeof ContainerConfigSchema>;
type LinuxPodConfig = MessageInitShape<typeof LinuxPodSandboxConfigSchema>;

/** What a test says of a pod; the rest is filled in as the kubelet would. */
export type PodInit = Partial<Omit<PodConfig, "$typeName" | "metadata" | "linux">> & {
  readonly linux?: Partial<Omit<LinuxPodConfig, "$typeName" | "securityContext">>;
  readonly security?: MessageInitShape<typeof LinuxSandboxSecurityContextSchema>;
  /** The runtime's configuration lacks privileged_without_host_devices. */
  readonly hostDevices?: boolean;
};
/** What a test says of a container; `image` is TOOL_IMAGE and the process sleeps when absent. */
export type ContainerInit = Partial<Omit<ContainerConfig, "$typeName" | "metadata" | "image" | "linux">> & {
  readonly name?: string;
  readonly image?: string;
  readonly attempt?: number;
  readonly resources?: MessageInitShape<typeof LinuxContainerResourcesSchema>;
  readonly security?: MessageInitShape<typeof LinuxContainerSecurityContextSchema>;
};

/** What the kubelet asks for unless the pod shares them: a pid namespace per container, the rest per pod. */
const NAMESPACES = {
  network: NamespaceMode.POD,
  pid: NamespaceMode.CONTAINER,
  ipc: NamespaceMode.POD,
};

export interface PodSetup {
  readonly name: string;
  readonly handler: string;
  /** For logs and files of the pod; made here. */
  readonly directory: string;
  readonly cgroupParent: string;
  readonly init: PodInit;
}

export interface ExecResult {
  readonly stdout: string;
  readonly stderr: string;
  readonly exitCode: number;
}

/** A line of a container's log: CRI logging format, `TIME STREAM TAG CONTENT`. */
export interface LogLine {
  readonly time: string;
  readonly stream: string;
  readonly tag: string;
  readonly content: string;
}

const EXIT_LIMIT_MS = scaledMs(30_000);
const EXEC_LIMIT_S = Math.ceil(scaledMs(30_000) / 1000);
/** Alone on a line, after a newline of its own: the end of a script's output. */
const END = "--end-of-output--";
const withoutEnd = (output: string) => output.slice(0, output.lastIndexOf(`\n${END}`));

export class Pod {
  readonly id: string;
  readonly handler: string;
  /** For files that the test gives to the pod. */
  readonly directory: string;
  readonly #cri: CriClient;
  readonly #config: PodConfig;
  #containers = 0;

  private constructor(cri: CriClient, id: string, setup: PodSetup, config: PodConfig) {
    this.#cri = cri;
    this.id = id;
    this.handler = setup.handler;
    this.directory = setup.directory;
    this.#config = config;
  }

  /** RunPodSandbox. @throws gRPC's error when the runtime refuses it. */
  static async run(cri: CriClient, setup: PodSetup): Promise<Pod> {
    const logs = join(setup.directory, "logs");
    mkdirSync(logs, { recursive: true });
    const { linux, security, hostDevices: _handler, ...init } = setup.init;
    const securityContext = { namespaceOptions: NAMESPACES, ...security };
    const config: PodConfig = {
      metadata: { name: setup.name, uid: `uid-${setup.name}`, namespace: "default", attempt: 0 },
      hostname: setup.name,
      logDirectory: logs,
      ...init,
      linux: { cgroupParent: setup.cgroupParent, ...linux, securityContext } as LinuxPodConfig,
    };
    const { podSandboxId } = await cri.runtime.runPodSandbox({ config, runtimeHandler: setup.handler });
    return new Pod(cri, podSandboxId, setup, config);
  }

  /** CreateContainer. */
  async create(init: ContainerInit = {}): Promise<PodContainer> {
    this.#containers += 1;
    const {
      name = `c${this.#containers}`,
      image = TOOL_IMAGE,
      attempt = 0,
      resources,
      security,
      ...rest
    } = init;
    const namespaceOptions = this.#config.linux?.securityContext?.namespaceOptions ?? NAMESPACES;
    const config: ContainerConfig = {
      metadata: { name, attempt },
      image: { image },
      command: ["tool", "pause"],
      logPath: `${name}_${attempt}.log`,
      linux: {
        ...(resources && { resources }),
        securityContext: { namespaceOptions, ...security },
      } as ContainerConfig["linux"],
      ...rest,
    } as ContainerConfig;
    const request = { podSandboxId: this.id, config, sandboxConfig: this.#config };
    const { containerId } = await this.#cri.runtime.createContainer(request);
    return new PodContainer(
      this.#cri,
      containerId,
      join(this.#config.logDirectory ?? "", config.logPath ?? ""),
    );
  }

  /** CreateContainer and StartContainer. */
  async run(init: ContainerInit = {}): Promise<PodContainer> {
    const container = await this.create(init);
    await container.start();
    return container;
  }

  /**
   * A container that runs `script` in a shell to its end: exit code and both streams, complete. containerd tells the exit
   * before it has written all of the output, so the script's end is marked in both streams and waited for. What ends while
   * containerd still opens its pipes loses what it wrote ("reading from a closed fifo"; it cancels what is not open), so
   * it ends a moment later.
   */
  async script(script: string, init: ContainerInit = {}): Promise<ExecResult> {
    const marked = `(${script}\n); code=$?; echo; echo ${END}; echo >&2; echo ${END} >&2; sleep 0.1; exit $code`;
    const container = await this.run({ command: ["sh", "-c", marked], ...init });
    await container.logged(`stdout F ${END}`);
    await container.logged(`stderr F ${END}`);
    const { exitCode } = await container.exited();
    const stdout = withoutEnd(container.output("stdout"));
    const stderr = withoutEnd(container.output("stderr"));
    await container.remove();
    return { stdout, stderr, exitCode };
  }

  async status(): Promise<PodSandboxStatus> {
    const { status } = await this.#cri.runtime.podSandboxStatus({ podSandboxId: this.id });
    if (status === undefined) throw new Error(`pod ${this.id} has no status`);
    return status;
  }

  async stop(): Promise<void> {
    await this.#cri.runtime.stopPodSandbox({ podSandboxId: this.id });
  }

  /** StopPodSandbox and RemovePodSandbox, which remove the containers too. */
  async remove(): Promise<void> {
    await this.stop();
    await this.#cri.runtime.removePodSandbox({ podSandboxId: this.id });
  }
}

export class PodContainer {
  readonly id: string;
  readonly logFile: string;
  readonly #cri: CriClient;

  constructor(cri: CriClient, id: string, logFile: string) {
    this.#cri = cri;
    this.id = id;
    this.logFile = logFile;
  }

  async start(): Promise<void> {
    await this.#cri.runtime.startContainer({ containerId: this.id });
  }

  /** ExecSync of `argv`, or of a shell script. */
  async exec(argv: readonly string[] | string, timeoutSeconds = EXEC_LIMIT_S): Promise<ExecResult> {
    const cmd = typeof argv === "string" ? ["sh", "-c", argv] : [...argv];
    const request = { containerId: this.id, cmd, timeout: BigInt(timeoutSeconds) };
    const { stdout, stderr, exitCode } = await this.#cri.runtime.execSync(request);
    return { stdout: text(stdout), stderr: text(stderr), exitCode };
  }

  /** Standard output of an exec that must succeed. */
  async ok(argv: readonly string[] | string): Promise<string> {
    const result = await this.exec(argv);
    if (result.exitCode !== 0) {
      throw new Error(`${String(argv)} failed: ${JSON.stringify(result)}`);
    }
    return result.stdout;
  }

  async status(): Promise<ContainerStatus> {
    const { status } = await this.#cri.runtime.containerStatus({ containerId: this.id });
    if (status === undefined) throw new Error(`container ${this.id} has no status`);
    return status;
  }

  /** The status once the container has ended. @throws after 30 s. */
  async exited(): Promise<ContainerStatus> {
    const deadline = performance.now() + EXIT_LIMIT_MS;
    for (;;) {
      const status = await this.status();
      if (status.state === ContainerState.CONTAINER_EXITED) return status;
      if (performance.now() > deadline) throw new Error(`${this.id} does not end:\n${this.rawLog()}`);
      await sleep(50);
    }
  }

  /** Waits until a line with `text` is in the log. @throws after 30 s. */
  async logged(expected: string): Promise<void> {
    const deadline = performance.now() + EXIT_LIMIT_MS;
    while (!this.rawLog().includes(expected)) {
      if (performance.now() > deadline) throw new Error(`no "${expected}" in the log:\n${this.rawLog()}`);
      await sleep(20);
    }
  }

  async stop(graceSeconds = 0): Promise<void> {
    await this.#cri.runtime.stopContainer({ containerId: this.id, timeout: BigInt(graceSeconds) });
  }

  /** RemoveContainer, which kills it when it still runs. */
  async remove(): Promise<void> {
    await this.#cri.runtime.removeContainer({ containerId: this.id });
  }

  rawLog(): string {
    return existsSync(this.logFile) ? readFileSync(this.logFile, "utf8") : "";
  }

  logLines(): LogLine[] {
    const lines = this.rawLog()
      .split("\n")
      .filter((line) => line !== "");
    return lines.map((line) => {
      const [time = "", stream = "", tag = "", ...rest] = line.split(" ");
      return { time, stream, tag, content: rest.join(" ") };
    });
  }

  /** What the container wrote to one of its streams, as the log has it. */
  output(stream: "stdout" | "stderr"): string {
    const lines = this.logLines().filter((line) => line.stream === stream);
    return lines.map(({ tag, content }) => (tag === "P" ? content : `${content}\n`)).join("");
  }
}

const text = (bytes: Uint8Array): string => Buffer.from(bytes).toString();
