/** Everything that a new sandbox would be made with: `shim env`. */
import { join } from "node:path";
import { describeError } from "../base/errors.ts";
import { type Config, checkPaths, checkVsockDaemon } from "../config/index.ts";
import { detectAccel } from "../hypervisor/accel.ts";
import { findQboot } from "../hypervisor/qemu/firmware.ts";
import { runRoot } from "../persist/run-dir.ts";
import type { OperatorHost } from "./host.ts";
import { deviceProblem, hostFacts } from "./host-facts.ts";
import { imageFacts } from "./image-facts.ts";
import { firstLineOf } from "./versions.ts";

/** Version of this document's form. */
const FORMAT = "1";

/** A tree of tables, as TOML has them. What is missing on the host is told in words, never left out. */
export type Environment = Readonly<Record<string, unknown>>;

export async function environment(config: Config, host: OperatorHost): Promise<Environment> {
  const facts = hostFacts();
  const image = imageFacts(config);
  const programs = await programVersions(config);
  const vhostVsock = deviceProblem("/dev/vhost-vsock");
  return {
    Meta: { Version: FORMAT },
    Runtime: {
      Version: host.version,
      Path: join(host.programRoot, "bin/containerd-shim-caisson-v2"),
      Node: { Version: process.version, Path: process.execPath },
      RunRoot: runRoot(),
      Debug: config.runtime.enableDebug,
      DisableGuestSeccomp: config.runtime.disableGuestSeccomp,
      InternetworkingModel: config.runtime.internetworkingModel,
      Config: {
        Path: config.files[0] ?? "built-in defaults",
        DropIns: config.files.slice(1),
        Warnings: config.warnings,
      },
    },
    Hypervisor: {
      MachineType: config.hypervisor.machineType,
      Version: programs.qemu.version,
      Path: programs.qemu.path,
      Firmware: firmware(config, programs.qemu.path),
      ...accelerator(config),
      SharedFS: config.hypervisor.sharedFs,
      DefaultVCPUs: config.hypervisor.defaultVcpus,
      DefaultMemoryMiB: config.hypervisor.defaultMemory,
      Debug: config.hypervisor.enableDebug,
      VirtioFSDaemon: {
        Path: programs.virtiofsd.path,
        Version: programs.virtiofsd.version,
        Cache: config.hypervisor.virtioFsCache,
        RootCache: config.hypervisor.virtioFsRootCache,
      },
      Vsock: {
        Backend: vsockBackend(config, vhostVsock),
        ...(programs.vsock === undefined
          ? {}
          : { Path: programs.vsock.path, Version: programs.vsock.version }),
      },
      VhostNet: vhostNet(config),
    },
    Kernel: {
      Path: image.kernel,
      RealPath: image.realKernel ?? "not found",
      Release: image.manifest?.kernel.release ?? "unknown",
      Parameters: config.hypervisor.kernelParams,
    },
    Initrd: {
      Path: image.initrd,
      RealPath: image.realInitrd ?? "not found",
      ...(image.manifest === undefined
        ? { Manifest: "none: the image was not made by osbuilder, or there is none" }
        : {
            Bytes: image.manifest.files["caisson-initrd.img"]?.bytes ?? 0,
            SHA256: image.manifest.files["caisson-initrd.img"]?.sha256 ?? "",
            Builder: image.manifest.builder,
            Compression: image.manifest.compression,
            Modules: image.manifest.modules.map(({ name }) => name),
          }),
    },
    Agent: {
      Version: image.manifest?.agent.version ?? "unknown",
      SHA256: image.manifest?.agent.sha256 ?? "unknown",
      Debug: config.agent.enableDebug,
      DebugConsole: config.agent.debugConsoleEnabled,
    },
    Containerd: await containerd(),
    Host: {
      Kernel: facts.kernel,
      Architecture: facts.architecture,
      VMContainerCapable: detectAccel().accel === "kvm",
      SupportVSocks: vhostVsock === undefined,
      Cgroups: facts.cgroups,
      Distro: { Name: facts.distro.name, Version: facts.distro.version },
      CPU: { Vendor: facts.cpu.vendor, Model: facts.cpu.model, CPUs: facts.cpu.count },
      Memory: {
        Total: Math.round(facts.memory.totalBytes / 1024),
        Available: Math.round(facts.memory.availableBytes / 1024),
      },
    },
  };
}

interface Program {
  readonly path: string;
  readonly version: string;
}

async function programVersions(config: Config) {
  const paths = foundPaths(config);
  const [qemu, virtiofsd, vsock] = await Promise.all(
    [paths.qemu, paths.virtiofsd, paths.vsock].map((path) =>
      path === undefined ? Promise.resolve(undefined) : firstLineOf(path),
    ),
  );
  const program = (path: string | undefined, version: string | undefined, problem: string): Program => ({
    path: path ?? problem,
    version: path === undefined ? "not found" : (version ?? "cannot be run"),
  });
  return {
    qemu: program(paths.qemu, qemu, paths.problem),
    virtiofsd: program(paths.virtiofsd, virtiofsd, paths.problem),
    vsock: paths.vsock === undefined ? undefined : program(paths.vsock, vsock, ""),
  };
}

function foundPaths(config: Config) {
  let vsock: string | undefined;
  try {
    vsock = checkVsockDaemon(config);
  } catch {
    // Only hosts without the kernel's vhost-vsock need it; `check` tells.
  }
  try {
    const { qemu, virtiofsd } = checkPaths(config);
    return { qemu, virtiofsd, vsock, problem: "" };
  } catch (error) {
    // The images may be missing while the programs are there.
    const { path, virtioFsDaemon } = config.hypervisor;
    const qemu = path === "" ? "/usr/bin/qemu-system-x86_64" : path;
    return { qemu, virtiofsd: virtioFsDaemon || undefined, vsock, problem: describeError(error) };
  }
}

/** What `accel` comes to on this host, and why. */
export function accelerator({ hypervisor }: Pick<Config, "hypervisor">) {
  const { accel, reason } = detectAccel();
  return hypervisor.accel === "auto"
    ? { Accelerator: accel, AcceleratorReason: reason }
    : { Accelerator: hypervisor.accel, AcceleratorReason: "accel in the configuration" };
}

/** Which vsock backend a sandbox would get. */
export function vsockBackend(
  { hypervisor }: Pick<Config, "hypervisor">,
  problem: string | undefined,
): string {
  if (hypervisor.vsockBackend !== "auto")
    return `${hypervisor.vsockBackend} (vsock_backend in the configuration)`;
  return problem === undefined
    ? "vhost (/dev/vhost-vsock can be opened)"
    : `vhost-user (/dev/vhost-vsock cannot be opened: ${problem})`;
}

function vhostNet({ hypervisor }: Config): string {
  if (hypervisor.disableVhostNet) return "disabled by the configuration";
  const problem = deviceProblem("/dev/vhost-net");
  return problem === undefined ? "available" : `not available (${problem})`;
}

function firmware({ hypervisor }: Config, qemu: string): string {
  if (hypervisor.firmware !== "") return hypervisor.firmware;
  return findQboot(qemu) ?? "QEMU's own";
}

async function containerd() {
  const [version, runc] = await Promise.all([firstLineOf("containerd"), firstLineOf("runc")]);
  return { Version: version ?? "not found", Runc: runc ?? "not found" };
}
