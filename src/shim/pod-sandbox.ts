/**
 * The sandbox of the Sandbox API: made and ended by calls of its own and not by a first container. Its containers come
 * through the Task API of the same shim.
 *
 *   created ──start──> ready ──stop, or the machine is lost──> stopped
 *      └───────────────────────stop──────────────────────────────^
 */
import { SandboxError } from "../base/errors.ts";
import type { OciMount, OciSpec } from "../oci/spec.ts";
import type { Sandbox } from "../runtime/sandbox.ts";
import type { SandboxRequest, Tasks } from "./tasks.ts";

export interface PodStatus {
  readonly state: "created" | "ready" | "stopped";
  readonly pid: number;
  readonly createdAt: Date | undefined;
  readonly exitedAt: Date | undefined;
}

export interface PodExit {
  readonly status: number;
  readonly exitedAt: Date;
}

export interface NewPod {
  readonly id: string;
  readonly bundle: string;
  readonly configPath: string;
  readonly spec: OciSpec;
  readonly podMounts: readonly OciMount[];
}

/** Status of a sandbox whose machine was lost: 128 + SIGKILL. */
const KILLED = 137;

export class PodSandbox {
  readonly #tasks: Tasks;
  #id: string | undefined;
  #sandbox: Sandbox | undefined;
  #createdAt: Date | undefined;
  #exit: PodExit | undefined;
  #settle: (exit: PodExit) => void = () => undefined;
  readonly #exited = new Promise<PodExit>((resolve) => {
    this.#settle = resolve;
  });

  constructor(tasks: Tasks) {
    this.#tasks = tasks;
  }

  /** Starts the machine without waiting for it. @throws ERR_ALREADY_EXISTS; ERR_CONFIG, ERR_HOST, … as for a task. */
  async create(pod: NewPod): Promise<void> {
    if (this.#id !== undefined) {
      throw new SandboxError("ERR_ALREADY_EXISTS", `sandbox ${this.#id} exists already`);
    }
    this.#id = pod.id;
    try {
      const request: SandboxRequest = { ...pod, lost: () => this.#end(KILLED) };
      this.#sandbox = await this.#tasks.hold(pod.id, request);
    } catch (error) {
      this.#id = undefined;
      throw error;
    }
  }

  /** Resolves when the guest is ready. Idempotent. @throws why it did not boot. */
  async start(id: string): Promise<PodStatus> {
    const sandbox = this.#known(id);
    if (this.#exit !== undefined) {
      throw new SandboxError("ERR_STATE", `cannot start sandbox ${id}: it is stopped`);
    }
    await sandbox.machine();
    this.#createdAt ??= new Date();
    return this.status(id);
  }

  status(id: string): PodStatus {
    const sandbox = this.#known(id);
    const { createdAt, exitedAt } = { createdAt: this.#createdAt, exitedAt: this.#exit?.exitedAt };
    const state = exitedAt !== undefined ? "stopped" : createdAt === undefined ? "created" : "ready";
    return { state, pid: sandbox.vmPid, createdAt, exitedAt };
  }

  /** Resolves with the end of the sandbox, now or later. */
  wait(id: string): Promise<PodExit> {
    this.#known(id);
    return this.#exited;
  }

  /** Asks the guest whether it is alive. @throws ERR_STATE before start and after stop, ERR_DEADLINE, ERR_UNAVAILABLE. */
  async ping(id: string): Promise<void> {
    const sandbox = this.#known(id);
    const { state } = this.status(id);
    if (state !== "ready") throw new SandboxError("ERR_STATE", `sandbox ${id} is ${state}`);
    const { agent } = await sandbox.machine();
    await agent.calls.guestInfo({});
  }

  /** Ends the machine and whatever still runs in it. Idempotent. */
  async stop(id: string): Promise<void> {
    this.#known(id);
    await this.#tasks.endHeld();
    this.#end(0);
  }

  /** The containers' ids, for metrics. @throws ERR_NOT_FOUND */
  containerIds(id: string): string[] {
    return this.#known(id).containers.map((container) => container.id);
  }

  #end(status: number): void {
    if (this.#exit !== undefined) return;
    this.#exit = { status, exitedAt: new Date() };
    this.#settle(this.#exit);
  }

  #known(id: string): Sandbox {
    if (this.#sandbox === undefined || id !== this.#id) {
      throw new SandboxError("ERR_NOT_FOUND", `sandbox ${id} not found`);
    }
    return this.#sandbox;
  }
}
