/** A container as CRI-O's runtimeVM handles it (cri-o internal/oci/runtime_vm.go), call for call. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { create, toBinary } from "@bufbuild/protobuf";
import { AnySchema } from "@bufbuild/protobuf/wkt";
import { Status } from "../../src/gen/containerd/v1/types/task_pb.ts";
import { OptionsSchema } from "../../src/gen/runtimeoptions/v1/options_pb.ts";
import type { OciResources, OciSpec } from "../../src/oci/spec.ts";
import type { CrioPod } from "./crio.ts";
import { ProcessIo } from "./crio-io.ts";
import { connect, isClosed, type ShimConnection, startRuntimeDaemon } from "./crio-shim.ts";
import { runOk } from "./run.ts";

/** Type URLs that CRI-O registers for what the OCI specification defines. */
const OCI = "types.containerd.io/opencontainers/runtime-spec/1";
/** container_create_timeout, in milliseconds. */
const CREATE_LIMIT_MS = 240_000;
/** killContainerTimeout: how long a killed container may take to end. */
const KILL_LIMIT_S = 120;

export interface CrioExec {
  readonly stdout: string;
  readonly stderr: string;
  readonly exitCode: number;
}

/** An exec with streams of its own, as `kubectl exec` has them. */
export interface ExecOptions {
  /** 0 for no limit. */
  readonly timeoutSeconds?: number;
  readonly terminal?: { readonly width: number; readonly height: number };
  /** All of the input. */
  readonly input?: string;
}

export interface ContainerParts {
  readonly bundle: string;
  readonly rootfs: string;
  readonly spec: OciSpec;
  readonly stdin: boolean;
}

export class CrioContainer {
  readonly pod: CrioPod;
  readonly id: string;
  readonly bundle: string;
  readonly #parts: ContainerParts;
  #shim: ShimConnection | undefined;
  #io: ProcessIo | undefined;
  #execs = 0;
  #status: Status = Status.CREATED;
  #oomKilled = false;
  #shimLog = "";
  /** The exit status, once CRI-O has noted it: what it writes into its exits directory. */
  exited: Promise<number> | undefined;

  constructor(pod: CrioPod, id: string, parts: ContainerParts) {
    this.pod = pod;
    this.id = id;
    this.bundle = parts.bundle;
    this.#parts = parts;
  }

  get task(): ShimConnection["task"] {
    if (this.#shim === undefined) throw new Error("runtime not correctly setup");
    return this.#shim.task;
  }

  /** What came out of the container. */
  get stdout(): string {
    return this.#io?.stdout ?? "";
  }
  get stderr(): string {
    return this.#io?.stderr ?? "";
  }
  /** What the shim wrote to `<bundle>/log`. */
  get shimLog(): string {
    return this.#shimLog;
  }
  /** What CRI-O calls it: decided when the end was told. */
  get oomKilled(): boolean {
    return this.#oomKilled;
  }

  /** CreateContainer: startRuntimeDaemon, then Create without any mount. A failure is cleaned up as CRI-O does. */
  async create(): Promise<void> {
    const { node } = this.pod;
    const terminal = this.#parts.spec.process?.terminal ?? false;
    this.#shim = await startRuntimeDaemon({
      world: node.world,
      id: this.id,
      bundle: this.bundle,
      debug: node.debug,
      onLog: (text) => {
        this.#shimLog += text;
      },
    });
    this.#io = await ProcessIo.make({ dir: this.#fifoDir("init"), stdin: this.#parts.stdin, terminal });
    const value = toBinary(OptionsSchema, create(OptionsSchema, { configPath: node.configPath }));
    try {
      const request = {
        id: this.id,
        bundle: this.bundle,
        rootfs: [],
        terminal,
        ...this.#io.fifos,
        options: create(AnySchema, { typeUrl: "runtimeoptions.v1.Options", value }),
      };
      const { pid } = await this.task.create(request, { timeoutMs: CREATE_LIMIT_MS });
      // SetInitPid: the start time of the process that the shim names.
      readFileSync(node.world.outside(`/proc/${pid}/stat`));
    } catch (error) {
      await this.#delete(true);
      throw error;
    }
  }

  async start(): Promise<void> {
    await this.task.start({ id: this.id });
    this.#watch();
  }

  /** ExecSync and Exec: Exec with the container's own process and other arguments, Start, Wait, Delete. */
  async exec(cmd: readonly string[], options: ExecOptions = {}): Promise<CrioExec> {
    const { timeoutSeconds = 0, terminal, input } = options;
    const execId = `exec${++this.#execs}`;
    const isTerminal = terminal !== undefined;
    const stdin = input !== undefined;
    const io = await ProcessIo.make({ dir: this.#fifoDir(execId), stdin, terminal: isTerminal });
    try {
      // The copy of the process keeps `terminal` of the container; what counts is the request's.
      const value = Buffer.from(JSON.stringify({ ...this.#parts.spec.process, args: [...cmd] }));
      const spec = create(AnySchema, { typeUrl: `${OCI}/Process`, value });
      await this.task.exec({ id: this.id, execId, terminal: isTerminal, ...io.fifos, spec });
      try {
        await this.task.start({ id: this.id, execId });
      } catch (error) {
        await this.task.delete({ id: this.id, execId });
        throw error;
      }
      if (stdin) {
        io.sendInput(input);
        await this.task.closeIO({ id: this.id, execId, stdin: true });
      }
      if (isTerminal) await this.task.resizePty({ id: this.id, execId, ...terminal });
      const wait = this.task.wait({ id: this.id, execId }).then(({ exitStatus }) => exitStatus);
      if (await isLate(wait, timeoutSeconds)) {
        await this.task.kill({ id: this.id, execId, signal: 9, all: false });
        await wait;
        return { stdout: "", stderr: "command timed out", exitCode: -1 };
      }
      const exitCode = await wait;
      await this.task.delete({ id: this.id, execId });
      await io.ended;
      return { stdout: io.stdout, stderr: io.stderr, exitCode };
    } finally {
      io.remove();
    }
  }

  /** UpdateContainer. */
  async update(resources: OciResources): Promise<void> {
    const value = Buffer.from(JSON.stringify(resources));
    const any = create(AnySchema, { typeUrl: `${OCI}/LinuxResources`, value });
    await this.task.update({ id: this.id, resources: any });
  }

  /** StopContainer: the stop signal with all = false; SIGKILL when the time is over or 0. Nothing when it has ended. */
  async stop(timeoutSeconds: number): Promise<void> {
    if (this.#status === Status.STOPPED) return;
    if (this.#status === Status.PAUSED) {
      await this.task.resume({ id: this.id });
      await this.updateStatus();
    }
    const wait = this.task.wait({ id: this.id }).catch((error: unknown) => {
      if (!isClosed(error)) throw error;
    });
    if (timeoutSeconds > 0) {
      await this.task.kill({ id: this.id, signal: 15, all: false });
      if (!(await isLate(wait, timeoutSeconds))) return;
    }
    await this.task.kill({ id: this.id, signal: 9, all: false });
    if (await isLate(wait, KILL_LIMIT_S)) throw new Error(`${this.id} does not end`);
  }

  /** DeleteContainer; then the storage is unmounted. Preconditions: it has been stopped. */
  async remove(): Promise<void> {
    await this.exited;
    await this.#delete(false);
  }

  /** CRI-O restarts: every connection is new, and the address is what the bundle says. */
  async restart(): Promise<void> {
    this.close();
    this.#shim = undefined;
    const address = readFileSync(join(this.bundle, "address"), "utf8").trim();
    this.#shim = await connect(this.pod.node.world, address);
    const state = await this.updateStatus();
    this.#io = ProcessIo.reopen({ stdin: state.stdin, stdout: state.stdout, stderr: state.stderr });
    this.#watch();
  }

  /** updateContainerStatus. */
  async updateStatus() {
    const state = await this.task.state({ id: this.id });
    this.#status = state.status;
    if (state.exitStatus !== 0) this.#oomKilled = existsSync(join(this.bundle, "oom"));
    return state;
  }

  /** `IsContainerAlive`: signal 0. */
  async isAlive(): Promise<boolean> {
    return await this.task.kill({ id: this.id, signal: 0 }).then(
      () => true,
      () => false,
    );
  }

  close(): void {
    this.#shim?.close();
    this.#io?.close();
  }

  #watch(): void {
    this.exited = this.task.wait({ id: this.id }).then(async ({ exitStatus }) => {
      await this.updateStatus();
      return exitStatus;
    });
    // A connection that a restart cuts is not this caller's trouble.
    this.exited.catch(() => undefined);
  }

  /** deleteContainer: Delete and Shutdown, for a container of a pod too. `force` goes on whatever fails. */
  async #delete(force: boolean): Promise<void> {
    const tolerate = (error: unknown) => {
      if (!force && !isClosed(error)) throw error;
    };
    this.#io?.close();
    await this.task.delete({ id: this.id }).catch(tolerate);
    await this.task.shutdown({ id: this.id }).catch(tolerate);
    this.#shim?.close();
    this.#io?.remove();
    this.pod.forget(this);
    await runOk(this.pod.node.world.enter(["umount", this.#parts.rootfs]));
  }

  #fifoDir(name: string): string {
    return join(this.pod.node.world.dir, "fifo", this.id.slice(0, 12), name);
  }
}

/** Whether `wait` takes longer; 0 for no limit. */
async function isLate(wait: Promise<unknown>, seconds: number): Promise<boolean> {
  if (seconds === 0) return false;
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<boolean>((resolve) => {
    timer = setTimeout(() => resolve(true), seconds * 1000);
  });
  const result = await Promise.race([wait.then(() => false), late]);
  clearTimeout(timer);
  return result;
}
