/** Starts QEMU as our child, with everything it needs inherited as descriptors. */
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { causeOf } from "../../base/cause.ts";
import { describeError, SandboxError } from "../../base/errors.ts";
import type { Log } from "../../base/log.ts";
import { duplexByteStream, QmpClient } from "../../qmp/index.ts";
import { type ChildExit, loadSupervisor, type SpawnChild, type SupervisedChild } from "../child-process.ts";
import type { Hypervisor, PodDevices, RunningVm, SavedGuest, VmConfig, WaitingVm } from "../hypervisor.ts";
import { lastWords, withLastWords } from "../last-words.ts";
import { handleFd, listenForChild } from "../listening-socket.ts";
import { qemuCommand } from "./argv.ts";
import { QemuHotplug } from "./hotplug.ts";
import { plugPod, readState } from "./restore.ts";
import { sendFds } from "./send-fds.ts";

export interface QemuInit {
  /** Absolute path of qemu-system-x86_64. */
  readonly path: string;
  readonly log: Log;
  /** How descriptors are sent with QMP commands; default: the addon's sendmsg(2). */
  readonly sendFds?: typeof sendFds;
}

export class QemuHypervisor implements Hypervisor {
  readonly #init: QemuInit;

  constructor(init: QemuInit) {
    this.#init = init;
  }

  async launch(config: VmConfig, signal: AbortSignal): Promise<RunningVm> {
    const spawn = await this.#spawner(signal);
    return this.#start(spawn, config).vm;
  }

  async wake(config: VmConfig & { readonly saved: SavedGuest }, signal: AbortSignal): Promise<WaitingVm> {
    const spawn = await this.#spawner(signal);
    const { vm, stateFd } = this.#start(spawn, config);
    return new WaitingQemu(vm, async () => {
      const [qmp] = await Promise.all([vm.qmp, config.saved.filled]);
      await readState(qmp, stateFd as number, signal);
    });
  }

  async #spawner(signal: AbortSignal): Promise<SpawnChild> {
    const spawn = await loadSupervisor();
    if (!signal.aborted) return spawn;
    throw new SandboxError("ERR_CANCELED", "starting QEMU was canceled", { cause: signal.reason });
  }

  #start(spawn: SpawnChild, config: VmConfig): { vm: QemuVm; stateFd: number | undefined } {
    // No await from here to close(): our client is queued on the listener before QEMU exists, QEMU accepts it when it
    // is ready, and nobody else can ever connect since the path is gone again.
    const listener = listenForChild(join(config.runDir, "qmp.sock"), { keepPath: false });
    let socket: Socket | undefined;
    try {
      const command = qemuCommand(config, listener.fd);
      socket = connect(listener.path);
      const child = spawn({
        name: "qemu",
        file: this.#init.path,
        args: command.args,
        inheritFds: command.fds,
        ...(config.netnsPath === undefined ? {} : { netnsPath: config.netnsPath }),
        takesInput: config.saved !== undefined,
        stdout: "capture",
        ...(config.onConsoleLine === undefined ? {} : { onStdoutLine: config.onConsoleLine }),
        onStderrLine: (line) => this.#init.log.warn({}, line),
        log: this.#init.log,
      });
      return { vm: new QemuVm(child, this.#openQmp(socket), config), stateFd: command.stateFd };
    } catch (error) {
      socket?.destroy();
      throw error;
    } finally {
      listener.close();
    }
  }

  #openQmp(socket: Socket): Promise<QmpClient> {
    const { sendFds: send = sendFds, log } = this.#init;
    return QmpClient.connect({
      stream: duplexByteStream(socket),
      log,
      sendWithFds: async (bytes, fds) => {
        const fd = handleFd(socket);
        if (fd === undefined) throw new SandboxError("ERR_UNAVAILABLE", "the QMP socket is closed");
        await send(fd, bytes, fds);
      },
    });
  }
}

const isLost = (error: unknown): boolean => error instanceof SandboxError && error.code === "ERR_UNAVAILABLE";

class WaitingQemu implements WaitingVm {
  readonly read: Promise<void>;
  readonly #vm: QemuVm;
  readonly #gone: Promise<never>;

  /** @param read has QEMU read the saved guest */
  constructor(vm: QemuVm, read: () => Promise<void>) {
    this.#vm = vm;
    this.#gone = vm.crashed.then((reason) => {
      throw reason;
    });
    this.read = Promise.race([read(), this.#gone]).then(() => {
      vm.readAgeMs = vm.ageMs;
    });
    // Whoever has the guest go on gets the error.
    this.read.catch(() => undefined);
  }

  get pid(): number {
    return this.#vm.pid;
  }

  async goOn(devices: PodDevices, orders: string, signal: AbortSignal): Promise<RunningVm> {
    const vm = this.#vm;
    try {
      await this.read;
      await Promise.race([this.#goOn(devices, orders, signal), this.#gone]);
      return vm;
    } catch (error) {
      const reason = signal.aborted ? error : await this.#reasonBehind(error);
      await vm.kill();
      throw reason;
    }
  }

  /** The connection of a QEMU that ends is gone before its exit is seen, which says why. */
  async #reasonBehind(error: unknown): Promise<unknown> {
    return isLost(error) ? await causeOf(error, this.#vm.crashed) : error;
  }

  async #goOn(devices: PodDevices, orders: string, signal: AbortSignal): Promise<void> {
    try {
      const qmp = await this.#vm.qmp;
      await plugPod(qmp, devices, signal);
      this.#vm.tell(`${orders}\n`);
      await qmp.execute("cont", undefined, { signal });
    } catch (cause) {
      if (signal.aborted || isLost(cause)) throw cause;
      const message = `the pod's devices could not be plugged into its machine: ${describeError(cause)}`;
      throw new SandboxError("ERR_BOOT", message, { cause });
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#vm.kill();
  }
}

class QemuVm implements RunningVm {
  readonly crashed: Promise<SandboxError>;
  readonly qmp: Promise<QmpClient>;
  readonly hotplug: Promise<QemuHotplug>;
  readAgeMs: number | undefined;
  readonly #startedAt = performance.now();
  readonly #child: SupervisedChild;

  constructor(child: SupervisedChild, qmp: Promise<QmpClient>, config: VmConfig) {
    this.#child = child;
    this.qmp = qmp;
    this.hotplug = qmp.then((client) => new QemuHotplug(client, config));
    this.hotplug.catch(() => undefined);
    // Whoever needs QMP gets the error; a VM nobody asked anything of may end without one.
    qmp.catch(() => undefined);
    this.crashed = child.exited.then((exit) =>
      exit.requested ? new Promise<never>(() => undefined) : this.#crash(exit),
    );
  }

  get pid(): number {
    return this.#child.pid;
  }

  get ageMs(): number {
    return performance.now() - this.#startedAt;
  }

  get exited(): Promise<ChildExit> {
    return this.#child.exited;
  }

  get exit(): ChildExit | undefined {
    return this.#child.exit;
  }

  lastWords(): string {
    return lastWords(this.#child.stderr, this.#child.stdout);
  }

  /** A line for the guest's console, the only one. */
  tell(line: string): void {
    this.#child.input(line);
  }

  stop(): Promise<ChildExit> {
    return this.#child.stop();
  }

  kill(): Promise<ChildExit> {
    return this.#child.kill();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.kill();
  }

  #crash(exit: ChildExit): SandboxError {
    const message = `QEMU ${exit.description}`;
    return new SandboxError("ERR_UNAVAILABLE", withLastWords(message, this), {
      fields: { pid: this.pid, signal: exit.signal },
    });
  }
}
