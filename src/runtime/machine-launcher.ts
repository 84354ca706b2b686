/**
 * Starts a sandbox's machine: from a template where there is one that fits it, else from the kernel. A template with which it
 * does not work is given up, so that no other machine tries it.
 */
import { causeOf } from "../base/cause.ts";
import { describeError, errnoOf, SandboxError } from "../base/errors.ts";
import { failPoint } from "../base/failpoint.ts";
import type { Log } from "../base/log.ts";
import { UndoStack } from "../base/undo.ts";
import type { PodDevices, RunningVm, WaitingVm } from "../hypervisor/hypervisor.ts";
import { QemuHypervisor } from "../hypervisor/qemu/launch.ts";
import { rotatingFile } from "../persist/rotating-file.ts";
import type { LaunchParts, StartedAhead } from "./boot.ts";
import { type MachineConfig, type MachineConfigInit, machineConfig } from "./machine-config.ts";
import {
  discardTemplate,
  type FoundTemplate,
  findTemplate,
  fitPort,
  fitsTemplate,
  openTemplate,
  orders,
} from "./template.ts";
import type { RecordedChild, Workspace } from "./workspace.ts";

/** Bytes of the guest console's log file, which is kept twice: the guest decides how much it writes. */
const CONSOLE_LIMIT_BYTES = 256 << 10;

export interface MachineLauncherInit extends MachineConfigInit {
  /** Shown in the process list. */
  readonly name: string;
  readonly log: Log;
}

/** The network namespace of a VMM. */
interface Netns {
  readonly path: string | undefined;
}

/** A VMM that has a template's guest and waits for its pod. */
interface Ahead {
  readonly template: FoundTemplate;
  readonly vm: WaitingVm;
}

export class MachineLauncher {
  readonly #init: MachineLauncherInit;
  readonly #qemu: QemuHypervisor;
  #ahead: Promise<Ahead | undefined> | undefined;
  /** That the machine went on from. */
  #template: FoundTemplate | undefined;

  constructor(init: MachineLauncherInit) {
    this.#init = init;
    const log = init.log.child({ component: "qemu" });
    this.#qemu = new QemuHypervisor({ path: init.paths.qemu, log });
  }

  /** Starts the VMM of a template, where there is one, while the parts of its machine are being made. */
  startAhead(workspace: Workspace, netns: Promise<Netns | undefined>, signal: AbortSignal): StartedAhead {
    this.#ahead = this.#startAhead(workspace, netns, signal);
    return {
      // launch() tells.
      started: this.#ahead.catch(() => undefined),
      [Symbol.asyncDispose]: async () => {
        const ahead = await this.#takeAhead()?.catch(() => undefined);
        await ahead?.vm[Symbol.asyncDispose]();
      },
    };
  }

  /** @param tscKhz frequency of the time stamp counter that an emulated guest is told, where it can be known */
  async launch(parts: LaunchParts, tscKhz: number | undefined, signal: AbortSignal): Promise<RunningVm> {
    const { workspace, network, vsock } = parts;
    const ahead = this.#takeAhead() ?? this.#wake(workspace, network.netnsPath, signal);
    const restored = await this.#goOn(ahead, parts, signal);
    if (restored !== undefined) return restored;
    const base = machineConfig(this.#init, tscKhz);
    const kernelParams = [`caisson.port=${vsock.transport.helloPort}`, ...base.kernelParams];
    const config = { ...this.#machine(base, workspace, network.netnsPath), ...devicesOf(this.#init, parts) };
    return await this.#spawn(workspace, () => this.#qemu.launch({ ...config, kernelParams }, signal));
  }

  /** The guest was started and is of no use. */
  failed(): void {
    if (this.#template === undefined) return;
    discardTemplate(this.#template);
    this.#init.log.warn({ path: this.#template.path }, `the template is given up; ${REMEDY}`);
  }

  #takeAhead(): Promise<Ahead | undefined> | undefined {
    const taken = this.#ahead;
    this.#ahead = undefined;
    return taken;
  }

  async #startAhead(
    workspace: Workspace,
    netns: Promise<Netns | undefined>,
    signal: AbortSignal,
  ): Promise<Ahead | undefined> {
    const known = await netns;
    return known && (await this.#wake(workspace, known.path, signal));
  }

  /** @returns undefined where no template fits, or the one that does cannot be used */
  async #wake(
    workspace: Workspace,
    netnsPath: string | undefined,
    signal: AbortSignal,
  ): Promise<Ahead | undefined> {
    const { config, paths } = this.#init;
    const base = machineConfig(this.#init, undefined);
    if (!fitsTemplate(base)) return undefined;
    const found = findTemplate(config, base, paths.qemu);
    if (found === undefined) return undefined;
    try {
      await using undo = new UndoStack();
      const template = undo.use("template", await openTemplate(found));
      const { memoryFd, saved } = template;
      const machine = { ...this.#machine(base, workspace, netnsPath), nics: [], memoryFd, saved };
      const vm = await this.#spawn(workspace, () => this.#qemu.wake(machine, signal));
      const files = undo.move();
      const close = () => files.disposeAsync();
      vm.read.then(close, close);
      return { template: found, vm };
    } catch (error) {
      this.#giveUp(found, error, signal);
      return undefined;
    }
  }

  async #goOn(
    starting: Promise<Ahead | undefined>,
    parts: LaunchParts,
    signal: AbortSignal,
  ): Promise<RunningVm | undefined> {
    const ahead = await starting;
    if (ahead === undefined) return undefined;
    const { template, vm } = ahead;
    const devices = devicesOf(this.#init, parts);
    if (!fitPort(devices)) {
      await vm[Symbol.asyncDispose]();
      return undefined;
    }
    try {
      const restored = await vm.goOn(devices, orders(parts.vsock.transport.helloPort), signal);
      this.#template = template;
      return restored;
    } catch (error) {
      const reason = signal.aborted ? undefined : await crashBehind(parts);
      if (reason !== undefined) throw reason;
      this.#giveUp(template, error, signal);
      return undefined;
    }
  }

  /** The template did not work. @throws `error` where the kernel need not be tried either */
  #giveUp(template: FoundTemplate, error: unknown, signal: AbortSignal): void {
    if (signal.aborted || wasKilled(error)) throw error;
    if (isOfTheTemplate(error)) discardTemplate(template);
    if (error instanceof SandboxError && error.code === "ERR_BOOT") throw error;
    const what = "the machine could not go on from the template, its kernel is started";
    this.#init.log.warn({ path: template.path, err: describeError(error) }, `${what}; ${REMEDY}`);
  }

  #spawn<T extends RecordedChild>(workspace: Workspace, start: () => Promise<T>): Promise<T> {
    return workspace.spawn("qemu", this.#init.paths.qemu, start, () => failPoint("qemu.spawned"));
  }

  /** Without the pod's devices. */
  #machine(base: MachineConfig, { paths }: Workspace, netnsPath: string | undefined) {
    const consoleFile = rotatingFile(paths.consoleLog, CONSOLE_LIMIT_BYTES);
    return {
      ...base,
      name: this.#init.name,
      runDir: paths.dir,
      netnsPath,
      onConsoleLine: (line: string) => {
        consoleFile.write(
          `${JSON.stringify({ time: new Date().toISOString(), component: "console", msg: line })}\n`,
        );
        this.#init.log.debug({ component: "console" }, line);
      },
    };
  }
}

/** Why a device was refused, where what is behind it has crashed: QEMU may see that before its exit is seen. */
function crashBehind({ sharedFs, vsock }: LaunchParts): Promise<SandboxError | undefined> {
  const helpers = vsock.helper === undefined ? sharedFs.daemons : [...sharedFs.daemons, vsock.helper];
  // One that ended well did so because QEMU was gone.
  const crashes = helpers.map(async ({ crashed }) => {
    const reason = await crashed;
    return reason.fields.exitCode === 0 ? await new Promise<never>(() => undefined) : reason;
  });
  return causeOf(undefined, Promise.race(crashes));
}

const wasKilled = (error: unknown): boolean =>
  error instanceof SandboxError && error.fields.signal !== undefined;

/** Not what the host lacks for the moment, time among it. */
function isOfTheTemplate(error: unknown): boolean {
  if (error instanceof SandboxError && error.code === "ERR_DEADLINE") return false;
  const errno = errnoOf(error);
  return errno === undefined || errno === "ENOENT";
}

const REMEDY = "shim factory status tells whether there is one, shim factory init makes one";

function devicesOf({ config }: MachineLauncherInit, { sharedFs, vsock, network }: LaunchParts): PodDevices {
  const queueSize = config.hypervisor.virtioFsQueueSize;
  return {
    sharedFs: sharedFs.daemons.map(({ socketPath, tag }) => ({ socketPath, tag, queueSize })),
    vsock: vsock.transport.device,
    nics: network.nics,
  };
}
