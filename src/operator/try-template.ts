/** Whether a template is of use: a machine without a network and containers goes on from it until its agent says hello. */
import { mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { describeError, SandboxError } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { UndoStack } from "../base/undo.ts";
import { type Config, checkVsockDaemon } from "../config/index.ts";
import { type SupervisedChild, superviseChild } from "../hypervisor/child-process.ts";
import { QemuHypervisor } from "../hypervisor/qemu/launch.ts";
import { awaitHello, firstCrash } from "../runtime/boot.ts";
import type { MachineConfig } from "../runtime/machine-config.ts";
import { openTemplate, orders, templateAt } from "../runtime/template.ts";
import { openVsockTransport } from "../vsock/transport.ts";

const REMEDY =
  "enable_debug = true in [hypervisor.qemu] shows its log, enable_template = false in [factory] does without";

export interface TryTemplateInit {
  /** The template's directory. */
  readonly path: string;
  readonly config: Config;
  readonly machine: MachineConfig;
  /** Path of QEMU. */
  readonly qemu: string;
  /** Milliseconds until the hello. */
  readonly bootLimitMs: number;
  readonly log: Log;
}

/** @throws ERR_BOOT when the guest does not go on, ERR_HOST and ERR_CONFIG when it cannot be talked to. Nothing is left. */
export async function tryTemplate(init: TryTemplateInit, signal: AbortSignal): Promise<void> {
  const { path, config, log } = init;
  await using undo = new UndoStack();
  const runDir = join(path, "trial");
  mkdirSync(runDir, { mode: 0o700 });
  undo.defer("directory of the trial", () => rmSync(runDir, { recursive: true, force: true }));
  const helpers: SupervisedChild[] = [];
  const vsock = undo.use(
    "vsock",
    await openVsockTransport(
      {
        backend: config.hypervisor.vsockBackend,
        dir: runDir,
        daemonPath: () => checkVsockDaemon(config),
        spawn: async (name, file, args) => {
          const child = await superviseChild({ name, file, args, log });
          helpers.push(child);
          return child;
        },
      },
      signal,
    ),
  );
  const found = templateAt(path);
  if (found === undefined) throw new SandboxError("ERR_STATE", `${path} was removed`);
  const template = undo.use("template", await openTemplate(found));
  try {
    const { memoryFd, saved } = template;
    const machine = { ...init.machine, name: "caisson-trial", runDir, nics: [], memoryFd, saved };
    const waiting = await new QemuHypervisor({ path: init.qemu, log }).wake(machine, signal);
    undo.use("waiting machine", waiting);
    const devices = { vsock: vsock.device, nics: [] };
    const vm = await waiting.goOn(devices, orders(vsock.helloPort), signal);
    vsock.deviceInherited();
    const hello = { guestLogLevel: "warn", helloLimitMs: init.bootLimitMs, log, onEvent: () => undefined };
    undo.use("agent", await awaitHello(hello, vm, vsock, firstCrash(vm, helpers), signal));
  } catch (cause) {
    const what = `the guest that was saved does not go on; ${REMEDY}`;
    throw new SandboxError("ERR_BOOT", `${what}: ${describeError(cause)}`);
  }
}
