/**
 * Which modules go into an image and when the agent loads them: the line format of /etc/caisson/modules
 * (docs/protocol.md, "Image contents") and the features that a guest kernel must have.
 */
import { SandboxError } from "../src/base/errors.ts";
import type { Kernel } from "./find-kernel.ts";
import { moduleName } from "./modinfo.ts";
import type { LoadedModule, ModuleTree } from "./module-tree.ts";

/** When the agent loads a module: before the hello, with a virtio device of that id, or when something asks. */
export type LoadCondition = "boot" | `virtio:${number}` | `demand:${string}`;

export interface WantedModule {
  readonly name: string;
  readonly when: LoadCondition;
  /** What it is for, as it is named to people. */
  readonly feature: string;
  /** The symbol that switches it on in the kernel's configuration. */
  readonly symbol: string;
  readonly required: boolean;
}

/** Virtio device ids: include/uapi/linux/virtio_ids.h. */
const virtioId = { net: 1, block: 2, console: 3, rng: 4, balloon: 5, mem: 24, fs: 26 } as const;

/** What every image wants. The vsock device's driver is loaded before the hello because the hello needs it. */
export const wantedModules: readonly WantedModule[] = [
  {
    name: "virtio_pci",
    when: "boot",
    feature: "virtio-pci (the bus of all guest devices)",
    symbol: "CONFIG_VIRTIO_PCI",
    required: true,
  },
  {
    name: "vmw_vsock_virtio_transport",
    when: "boot",
    feature: "vsock (the channel between shim and agent)",
    symbol: "CONFIG_VIRTIO_VSOCKETS",
    required: true,
  },
  {
    name: "fuse",
    when: `virtio:${virtioId.fs}`,
    feature: "fuse (which virtio-fs is built on)",
    symbol: "CONFIG_FUSE_FS",
    required: true,
  },
  {
    name: "virtiofs",
    when: `virtio:${virtioId.fs}`,
    feature: "virtio-fs (the containers' root file systems)",
    symbol: "CONFIG_VIRTIO_FS",
    required: true,
  },
  optional("virtio_net", `virtio:${virtioId.net}`, "virtio-net (pod network)", "CONFIG_VIRTIO_NET"),
  optional("virtio_blk", `virtio:${virtioId.block}`, "virtio-blk (block volumes)", "CONFIG_VIRTIO_BLK"),
  optional("virtio_console", `virtio:${virtioId.console}`, "virtio-console", "CONFIG_VIRTIO_CONSOLE"),
  optional("virtio_rng", `virtio:${virtioId.rng}`, "virtio-rng (entropy)", "CONFIG_HW_RANDOM_VIRTIO"),
  optional(
    "virtio_balloon",
    `virtio:${virtioId.balloon}`,
    "virtio-balloon (giving memory back)",
    "CONFIG_VIRTIO_BALLOON",
  ),
  optional("virtio_mem", `virtio:${virtioId.mem}`, "virtio-mem (adding memory)", "CONFIG_VIRTIO_MEM"),
  {
    name: "overlay",
    when: "demand:overlay",
    feature: "overlayfs (layered root file systems in the guest)",
    symbol: "CONFIG_OVERLAY_FS",
    required: true,
  },
];

function optional(name: string, when: LoadCondition, feature: string, symbol: string): WantedModule {
  return { name, when, feature, symbol, required: false };
}

/** Symbols that are never modules and without which the agent cannot run containers. */
const requiredSymbols: readonly (readonly [symbol: string, why: string])[] = [
  ["CONFIG_BLK_DEV_INITRD", "to boot an initrd"],
  ["CONFIG_DEVTMPFS", "for the guest's /dev"],
  ["CONFIG_TMPFS", "for the guest's writable directories"],
  ["CONFIG_UTS_NS", "for the containers' host names"],
  ["CONFIG_IPC_NS", "to keep containers apart"],
  ["CONFIG_PID_NS", "to keep containers apart"],
  ["CONFIG_CGROUPS", "for resource limits"],
  ["CONFIG_SECCOMP_FILTER", "for system call filters"],
];

/** One line of /etc/caisson/modules. */
export interface PlannedModule {
  readonly module: LoadedModule;
  readonly when: LoadCondition;
  /** The feature, or which module needs it. */
  readonly why: string;
}

export interface ModulePlan {
  /** In load order; a module stands once for each condition, and under "boot" only when it is there. */
  readonly lines: readonly PlannedModule[];
  /** Wanted modules that the kernel has built in. */
  readonly builtin: readonly string[];
  /** Optional features that the kernel does not have. */
  readonly missing: readonly WantedModule[];
}

/**
 * Plans the modules of an image: the standard ones and `extra` (from `--module`).
 * @throws SandboxError ERR_UNSUPPORTED when the kernel lacks required features, naming each; ERR_NOT_FOUND for an
 * extra module that does not exist; what reading modules throws.
 */
export async function planModules(
  kernel: Kernel,
  tree: ModuleTree,
  extra: readonly string[],
  signal?: AbortSignal,
): Promise<ModulePlan> {
  refuseUnfitKernel(kernel, tree);
  const extraWanted: WantedModule[] = [];
  for (const request of extra) extraWanted.push(await extraModule(request, tree, signal));
  const lines: PlannedModule[] = [];
  const builtin: string[] = [];
  const missing: WantedModule[] = [];
  for (const wanted of [...wantedModules, ...extraWanted]) {
    const found = tree.locate(wanted.name);
    if (found === undefined) missing.push(wanted);
    else if (found.kind === "builtin") builtin.push(wanted.name);
    else await addLines(lines, wanted, found.name, tree, signal);
  }
  return { lines, builtin, missing };
}

async function addLines(
  lines: PlannedModule[],
  wanted: WantedModule,
  name: string,
  tree: ModuleTree,
  signal?: AbortSignal,
): Promise<void> {
  for (const module of await tree.closure(name, signal)) {
    const listed = lines.some(
      (line) => line.module === module && (line.when === "boot" || line.when === wanted.when),
    );
    if (listed) continue;
    const why = module.name === name ? wanted.feature : `needed by ${name}`;
    lines.push({ module, when: wanted.when, why });
  }
}

function refuseUnfitKernel(kernel: Kernel, tree: ModuleTree): void {
  const lacks = wantedModules
    .filter((wanted) => wanted.required && tree.locate(wanted.name) === undefined)
    .map((wanted) => `${wanted.feature}: neither built in nor module ${wanted.name} (${wanted.symbol})`);
  if (kernel.config !== undefined) {
    for (const [symbol, why] of requiredSymbols) {
      if (kernel.config.get(symbol) !== "y") lacks.push(`${symbol}, ${why}`);
    }
  }
  if (lacks.length === 0) return;
  throw new SandboxError(
    "ERR_UNSUPPORTED",
    `kernel ${kernel.release} (${tree.dir}) cannot be a guest, it lacks ${lacks.join("; ")}. ` +
      "Choose another with --kernel-release; on Debian, linux-image-cloud-amd64 has all of it",
  );
}

/**
 * `--module NAME` or `--module WHEN=NAME`. Without WHEN, a virtio driver is loaded with its device (read from its
 * alias "virtio:d0000001Av*", include/linux/mod_devicetable.h) and any other module on demand.
 */
async function extraModule(request: string, tree: ModuleTree, signal?: AbortSignal): Promise<WantedModule> {
  const equals = request.lastIndexOf("=");
  const name = request.slice(equals + 1);
  const found = tree.locate(name);
  if (found === undefined) {
    throw new SandboxError(
      "ERR_NOT_FOUND",
      `kernel ${tree.release} has no module ${name} (looked in ${tree.dir})`,
    );
  }
  const base = { name: found.name, feature: "asked for with --module", symbol: "", required: false };
  if (equals >= 0) return { ...base, when: parseCondition(request.slice(0, equals), request) };
  if (found.kind === "file") {
    const { info } = await tree.load(found.name, signal);
    const device = info.aliases.map((alias) => /^virtio:d([0-9A-F]{8})v/.exec(alias)?.[1]).find((id) => id);
    if (device !== undefined) return { ...base, when: `virtio:${Number.parseInt(device, 16)}` };
  }
  return { ...base, when: `demand:${moduleName(found.name)}` };
}

function parseCondition(text: string, request: string): LoadCondition {
  if (text === "boot") return text;
  const virtio = /^virtio:(\d{1,5})$/.exec(text)?.[1];
  if (virtio !== undefined) return `virtio:${Number(virtio)}`;
  const demand = /^demand:([\w.-]+)$/.exec(text)?.[1];
  if (demand !== undefined) return `demand:${demand}`;
  throw new SandboxError(
    "ERR_INVALID_ARGUMENT",
    `--module ${request}: "${text}" is no load condition; use boot, virtio:ID or demand:NAME`,
  );
}
