/** Boots a machine with the configuration of this host, without a network or containers, and ends it: `check --boot`. */
import { randomBytes } from "node:crypto";
import { join } from "node:path";
import type { Log } from "../base/log.ts";
import { scaledMs } from "../base/timeouts.ts";
import { UndoStack } from "../base/undo.ts";
import { type Config, checkPaths } from "../config/index.ts";
import { detectAccel } from "../hypervisor/accel.ts";
import { runRoot } from "../persist/run-dir.ts";
import { bootMachine } from "../runtime/boot.ts";
import { hostMachineDeps } from "../runtime/host-machine.ts";
import { Workspace } from "../runtime/workspace.ts";

export interface BootProbe {
  readonly kernelRelease: string;
  readonly agentVersion: string;
  /** Milliseconds from the beginning to each step of the host. */
  readonly hostSteps: Readonly<Record<string, number>>;
  /** Milliseconds of guest uptime at each step of the agent. */
  readonly guestSteps: Readonly<Record<string, number>>;
}

/** @throws SandboxError ERR_BOOT with the end of the guest's console, ERR_HOST, ERR_CONFIG. Nothing is left. */
export async function probeBoot(config: Config, log: Log, signal: AbortSignal): Promise<BootProbe> {
  const name = `check-${randomBytes(4).toString("hex")}`;
  const dir = join(runRoot(), name);
  const { hypervisor } = config;
  const size = { cpus: 1, memoryMiB: hypervisor.defaultMemory };
  const accel = hypervisor.accel === "auto" ? detectAccel().accel : hypervisor.accel;
  const paths = checkPaths(config);
  const deps = hostMachineDeps(
    { name, config, paths, accel, size, maxSize: size, netnsPath: undefined, log },
    dir,
  );
  const undo = new UndoStack();
  try {
    const facts = { sandbox: name, image: hypervisor.initrd, startedAtMs: Date.now() };
    const workspace = undo.use("workspace", await Workspace.create(deps.mounts, { dir, facts }));
    const guest = {
      sandboxId: name,
      hostname: "check",
      shmSizeBytes: 0,
      sysctls: {},
      sharePidNamespace: false,
    };
    const helloLimitMs = scaledMs(config.agent.dialTimeout * 1000);
    const boot = { workspace, guest, guestLogLevel: "warn", helloLimitMs, log, onEvent: () => undefined };
    const machine = undo.use("machine", await bootMachine(deps, boot, signal));
    const { hello } = machine.agent;
    return {
      kernelRelease: hello.kernelRelease,
      agentVersion: hello.agentVersion,
      hostSteps: { ...machine.steps },
      guestSteps: Object.fromEntries(
        hello.bootSteps.map((step) => [step.name, Number(step.uptimeUs) / 1000]),
      ),
    };
  } finally {
    await undo.disposeAsync();
  }
}
