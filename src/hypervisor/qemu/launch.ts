/** Starts QEMU as our child, with everything it needs inherited as descriptors. */
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { SandboxError } from "../../base/errors.ts";
import type { Log } from "../../base/log.ts";
import { duplexByteStream, QmpClient } from "../../qmp/index.ts";
import { type ChildExit, loadSupervisor, type SpawnChild, type SupervisedChild } from "../child-process.ts";
import type { Hypervisor, RunningVm, VmConfig } from "../hypervisor.ts";
import { handleFd, listenForChild } from "../listening-socket.ts";
import { printable } from "../tail-buffer.ts";
import { qemuCommand, type Restore } from "./argv.ts";
import { QemuHotplug } from "./hotplug.ts";
import { restore } from "./restore.ts";
import { sendFds } from "./send-fds.ts";

/** Lines of QEMU's stderr and of the guest's console that an error carries. */
const ERROR_LINES = 8;

/** Of a 16550A (hw/char/serial.c). */
const SERIAL_FIFO_BYTES = 16;

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
    const spawn = await loadSupervisor();
    if (signal.aborted) {
      throw new SandboxError("ERR_CANCELED", "starting QEMU was canceled", { cause: signal.reason });
    }
    const { vm, restore: what } = this.#start(spawn, config);
    return what === undefined ? vm : await restored(vm, what, config.saved?.filled, signal);
  }

  #start(spawn: SpawnChild, config: VmConfig): { vm: QemuVm; restore: Restore | undefined } {
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
        ...(config.saved === undefined ? {} : { input: ordersLine(config.saved.orders) }),
        stdout: "capture",
        ...(config.onConsoleLine === undefined ? {} : { onStdoutLine: config.onConsoleLine }),
        onStderrLine: (line) => this.#init.log.warn({}, line),
        log: this.#init.log,
      });
      return { vm: new QemuVm(child, this.#openQmp(socket), config), restore: command.restore };
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

async function restored(
  vm: QemuVm,
  what: Restore,
  filled: Promise<unknown> | undefined,
  signal: AbortSignal,
): Promise<QemuVm> {
  try {
    const gone = vm.crashed.then((reason) => {
      throw reason;
    });
    const startedAt = performance.now();
    const [qmp] = await Promise.race([Promise.all([vm.qmp, filled]), gone]);
    await Promise.race([restore(qmp, what, signal), gone]);
    vm.restoreMs = performance.now() - startedAt;
    return vm;
  } catch (error) {
    await vm.kill();
    throw error;
  }
}

/**
 * What comes before the saved state is read goes to a serial port that is about to be replaced, and is lost: no more than its
 * FIFO holds. The guest passes over blanks.
 */
function ordersLine(orders: string): string {
  return `${" ".repeat(SERIAL_FIFO_BYTES)}${orders}\n`;
}

class QemuVm implements RunningVm {
  readonly crashed: Promise<SandboxError>;
  readonly qmp: Promise<QmpClient>;
  readonly hotplug: Promise<QemuHotplug>;
  restoreMs = 0;
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

  get exited(): Promise<ChildExit> {
    return this.#child.exited;
  }

  get exit(): ChildExit | undefined {
    return this.#child.exit;
  }

  consoleTail(): string {
    return printable(this.#child.stdout.text());
  }

  stderrTail(): string {
    return printable(this.#child.stderr.text());
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
    const parts = [`QEMU ${exit.description}`];
    const stderr = this.#child.stderr.lastLines(ERROR_LINES);
    const console = this.#child.stdout.lastLines(ERROR_LINES);
    if (stderr.length > 0) parts.push(`QEMU's stderr:\n${stderr.join("\n")}`);
    if (console.length > 0) parts.push(`end of the guest's console:\n${console.join("\n")}`);
    return new SandboxError("ERR_UNAVAILABLE", parts.join("\n"), {
      fields: { pid: this.pid, signal: exit.signal },
    });
  }
}
