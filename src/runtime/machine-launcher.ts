/**
 * Starts a sandbox's machine: from a template where there is one that fits it, else from the kernel. A template with which it
 * does not work is given up, so that no other machine tries it.
 */
import { describeError, errnoOf, SandboxError } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { UndoStack } from "../base/undo.ts";
import type { RunningVm, VmConfig } from "../hypervisor/hypervisor.ts";
import { QemuHypervisor } from "../hypervisor/qemu/launch.ts";
import { rotatingFile } from "../persist/rotating-file.ts";
import type { LaunchParts } from "./boot.ts";
import { type MachineConfig, type MachineConfigInit, machineConfig } from "./machine-config.ts";
import {
  discardTemplate,
  type FoundTemplate,
  findTemplate,
  fitsTemplate,
  openTemplate,
  orders,
} from "./template.ts";

/** Bytes of the guest console's log file, which is kept twice: the guest decides how much it writes. */
const CONSOLE_LIMIT_BYTES = 256 << 10;

export interface MachineLauncherInit extends MachineConfigInit {
  /** Shown in the process list. */
  readonly name: string;
  readonly log: Log;
}

export class MachineLauncher {
  readonly #init: MachineLauncherInit;
  readonly #qemu: QemuHypervisor;
  /** That the machine went on from. */
  #template: FoundTemplate | undefined;

  constructor(init: MachineLauncherInit) {
    this.#init = init;
    const log = init.log.child({ component: "qemu" });
    this.#qemu = new QemuHypervisor({ path: init.paths.qemu, log });
  }

  /** @param tscKhz frequency of the time stamp counter that an emulated guest is told, where it can be known */
  async launch(parts: LaunchParts, tscKhz: number | undefined, signal: AbortSignal): Promise<RunningVm> {
    const base = machineConfig(this.#init, tscKhz);
    const machine = podMachine(this.#init, base, parts);
    const { helloPort } = parts.vsock.transport;
    const restored = await this.#restore(base, machine, helloPort, signal);
    if (restored !== undefined) return restored;
    const kernelParams = [`caisson.port=${helloPort}`, ...base.kernelParams];
    return await this.#qemu.launch({ ...machine, kernelParams }, signal);
  }

  /** The guest was started and is of no use. */
  failed(): void {
    if (this.#template === undefined) return;
    discardTemplate(this.#template);
    this.#init.log.warn({ path: this.#template.path }, `the template is given up; ${REMEDY}`);
  }

  async #restore(
    base: MachineConfig,
    machine: VmConfig,
    helloPort: number,
    signal: AbortSignal,
  ): Promise<RunningVm | undefined> {
    const { config, paths, log } = this.#init;
    if (!fitsTemplate(machine)) return undefined;
    const found = findTemplate(config, base, paths.qemu);
    if (found === undefined) return undefined;
    await using undo = new UndoStack();
    try {
      const template = undo.use("template", await openTemplate(found));
      const saved = { ...template.saved, orders: orders(helloPort) };
      const vm = await this.#qemu.launch({ ...machine, memoryFd: template.memoryFd, saved }, signal);
      this.#template = found;
      return vm;
    } catch (error) {
      if (signal.aborted) throw error;
      if (isOfTheTemplate(error)) discardTemplate(found);
      if (error instanceof SandboxError && error.code === "ERR_BOOT") throw error;
      const what = "the machine could not go on from the template, its kernel is started";
      log.warn({ path: found.path, err: describeError(error) }, `${what}; ${REMEDY}`);
      return undefined;
    }
  }
}

/** Not what the host lacks for the moment, time among it, nor a QEMU that was killed. */
function isOfTheTemplate(error: unknown): boolean {
  if (error instanceof SandboxError && (error.code === "ERR_DEADLINE" || error.fields.signal !== undefined)) {
    return false;
  }
  const errno = errnoOf(error);
  return errno === undefined || errno === "ENOENT";
}

const REMEDY = "shim factory status tells whether there is one, shim factory init makes one";

function podMachine(init: MachineLauncherInit, base: MachineConfig, parts: LaunchParts): VmConfig {
  const consoleFile = rotatingFile(parts.workspace.paths.consoleLog, CONSOLE_LIMIT_BYTES);
  const queueSize = init.config.hypervisor.virtioFsQueueSize;
  return {
    ...base,
    name: init.name,
    runDir: parts.workspace.paths.dir,
    sharedFs: parts.sharedFs.daemons.map(({ socketPath, tag }) => ({ socketPath, tag, queueSize })),
    vsock: parts.vsock.transport.device,
    nics: parts.network.nics,
    netnsPath: parts.network.netnsPath,
    onConsoleLine: (line) => {
      consoleFile.write(
        `${JSON.stringify({ time: new Date().toISOString(), component: "console", msg: line })}\n`,
      );
      init.log.debug({ component: "console" }, line);
    },
  };
}
