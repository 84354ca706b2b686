/**
 * `osbuilder verify`: boots an image as the shim would (same configuration, same hypervisor, virtio-fs and vsock; no
 * network) until the guest said hello and found its shared tree, then ends it.
 */
import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { SandboxError } from "../src/base/errors.ts";
import { silentLog } from "../src/base/log.ts";
import { scaledMs } from "../src/base/timeouts.ts";
import { UndoStack } from "../src/base/undo.ts";
import { type Config, checkPaths, loadConfig } from "../src/config/index.ts";
import { detectAccel } from "../src/hypervisor/accel.ts";
import type { Accel } from "../src/hypervisor/hypervisor.ts";
import { bootMachine } from "../src/runtime/boot.ts";
import { hostMachineDeps } from "../src/runtime/host-machine.ts";
import { Workspace } from "../src/runtime/workspace.ts";
import type { ImageStore, StoredImage } from "./image-store.ts";
import type { Progress } from "./progress.ts";

export interface VerifyOptions {
  /** Configuration file, absolute; undefined: where the shim finds it. */
  readonly configPath: string | undefined;
  readonly runRoot: string;
}

export interface VerifyResult {
  readonly release: string;
  readonly accelerator: Accel;
  readonly kernelRelease: string;
  readonly agentVersion: string;
  readonly capabilities: readonly string[];
  /** Milliseconds from the beginning to each step of the host. */
  readonly hostSteps: Readonly<Record<string, number>>;
  /** Milliseconds of guest uptime at each step of the agent. */
  readonly guestSteps: Readonly<Record<string, number>>;
}

/**
 * Checks the hashes of an image's files and boots it.
 * @throws SandboxError ERR_STATE for a damaged image, ERR_BOOT with the end of the guest's console, ERR_HOST or
 * ERR_CONFIG for what is missing on the host. Nothing is left running or mounted.
 */
export async function verify(
  store: ImageStore,
  image: StoredImage,
  options: VerifyOptions,
  progress: Progress,
  signal: AbortSignal,
): Promise<VerifyResult> {
  const { release, manifest } = image;
  const damage = manifest === undefined ? image.problem : await store.damage(release, manifest);
  if (manifest === undefined || damage !== undefined) {
    throw new SandboxError(
      "ERR_STATE",
      `image ${release} is damaged: ${damage}; osbuilder generate builds it anew`,
    );
  }
  progress.step("files", "match their hashes");
  const kernel = manifest.files.vmlinux === undefined ? "vmlinuz" : "vmlinux";
  const config = withImage(
    await loadConfig(options.configPath === undefined ? {} : { path: options.configPath }),
    join(image.directory, kernel),
    join(image.directory, "caisson-initrd.img"),
  );
  const accelerator = chooseAccel(config, progress);
  const result = await bootOnce(config, accelerator, options.runRoot, signal);
  if (result.kernelRelease !== release) {
    throw new SandboxError(
      "ERR_STATE",
      `image ${release} booted, but its kernel says that it is ${result.kernelRelease}`,
    );
  }
  return { release, accelerator, ...result };
}

/** The configuration with another kernel and initrd. */
function withImage(config: Config, kernel: string, initrd: string): Config {
  return { ...config, hypervisor: { ...config.hypervisor, kernel, initrd } };
}

function chooseAccel(config: Config, progress: Progress): Accel {
  if (config.hypervisor.accel !== "auto") return config.hypervisor.accel;
  const { accel, reason } = detectAccel();
  if (accel === "tcg") progress.warn(`no KVM: ${reason}; booting in software emulation, which takes longer`);
  return accel;
}

async function bootOnce(
  config: Config,
  accel: Accel,
  runRoot: string,
  signal: AbortSignal,
): Promise<Omit<VerifyResult, "release" | "accelerator">> {
  const name = `osbuilder-verify-${randomBytes(4).toString("hex")}`;
  const dir = join(runRoot, name);
  const { hypervisor } = config;
  const size = { cpus: 1, memoryMiB: hypervisor.defaultMemory };
  const deps = hostMachineDeps(
    {
      name,
      config,
      paths: checkPaths(config),
      accel,
      size,
      maxSize: size,
      netnsPath: undefined,
      log: silentLog,
    },
    dir,
  );
  const undo = new UndoStack();
  try {
    const facts = { sandbox: name, image: hypervisor.initrd };
    const workspace = undo.use("workspace", await Workspace.create(deps.mounts, { dir, facts }));
    const guest = {
      sandboxId: name,
      hostname: "verify",
      shmSizeBytes: 0,
      sysctls: {},
      sharePidNamespace: false,
    };
    const machine = undo.use(
      "machine",
      await bootMachine(
        deps,
        {
          workspace,
          guest,
          guestLogLevel: "warn",
          helloLimitMs: scaledMs(config.agent.dialTimeout * 1000),
          log: silentLog,
          onEvent: () => undefined,
        },
        signal,
      ),
    );
    const { hello } = machine.agent;
    return {
      kernelRelease: hello.kernelRelease,
      agentVersion: hello.agentVersion,
      capabilities: hello.capabilities,
      hostSteps: machine.steps,
      guestSteps: Object.fromEntries(
        hello.bootSteps.map((step) => [step.name, Number(step.uptimeUs) / 1000]),
      ),
    };
  } finally {
    await undo.disposeAsync();
  }
}
