/** `osbuilder generate`: from a kernel, its modules and the agent to an image in the store. */
import { SandboxError } from "../src/base/errors.ts";
import { type AsyncReleasable, UndoStack } from "../src/base/undo.ts";
import { extractVmlinux } from "./bzimage.ts";
import { compressInitrd, type InitrdCompression, initrdConfigSymbol } from "./compression.ts";
import { findKernel, type Kernel, type KernelChoice, type KernelPlaces, readInput } from "./find-kernel.ts";
import { fingerprint, ImageStore } from "./image-store.ts";
import {
  agentVersion,
  buildInitrd,
  checkAgent,
  type ExtraFile,
  type InitrdSizes,
  moduleImagePath,
} from "./initrd.ts";
import {
  IMAGE_FORMAT,
  type ImageContent,
  type ImageFileName,
  type ImageManifest,
  sameContent,
} from "./manifest.ts";
import { type ModulePlan, planModules } from "./module-set.ts";
import { loadsUnsignedModules } from "./module-signature.ts";
import { ModuleTree } from "./module-tree.ts";
import { formatBytes, type Progress } from "./progress.ts";

/** The budget of an initrd without extras (DESIGN.md §10). */
const INITRD_BUDGET_BYTES = 5_000_000;

export interface GenerateOptions {
  readonly kernel: KernelChoice;
  readonly places: KernelPlaces;
  /** Path of the guest agent's program. */
  readonly agent: string;
  readonly imageDir: string;
  readonly extraFiles: readonly ExtraFile[];
  readonly extraModules: readonly string[];
  readonly compression: "auto" | InitrdCompression;
  /** Build only when the stored image differs from what would be built, or is damaged. */
  readonly onlyIfNeeded: boolean;
  /** Whether the links are to lead to this image. */
  readonly link: boolean;
  /** Modification time of everything in the image, seconds since 1970. */
  readonly sourceDateEpoch: number;
  /** Name and version of this program, for the manifest. */
  readonly builder: string;
}

export interface GenerateResult {
  /** False when the stored image was good already. */
  readonly built: boolean;
  /** Why it was built, or why not. */
  readonly reason: string;
  readonly directory: string;
  readonly initrd: string;
  /** The kernel to boot: the ELF one where there is one. */
  readonly kernel: string;
  readonly linked: boolean;
  /** Bytes of the uncompressed initrd by part; undefined when nothing was built. */
  readonly sizes: InitrdSizes | undefined;
  readonly manifest: ImageManifest;
  readonly durationMs: number;
}

/** What goes into the image, read and checked, before anything is built. */
interface Inputs {
  readonly kernel: Kernel;
  readonly agent: Buffer;
  readonly plan: ModulePlan;
  readonly extraFiles: readonly ExtraFile[];
  readonly content: ImageContent;
}

/**
 * Builds the image, or finds the stored one good when `onlyIfNeeded`.
 * @throws SandboxError naming the file or feature at fault; the store is then unchanged.
 */
export async function generate(
  options: GenerateOptions,
  progress: Progress,
  signal?: AbortSignal,
): Promise<GenerateResult> {
  const started = performance.now();
  const inputs = await readInputs(options, progress, signal);
  const { content } = inputs;
  const store = new ImageStore(options.imageDir);
  const undo = new UndoStack();
  try {
    const busy = () => progress.warn(`another osbuilder works in ${options.imageDir}; waiting for it`);
    undo.use<AsyncReleasable>("image directory lock", await store.lock(busy, signal));
    const reason = await whyBuild(store, content, options.onlyIfNeeded);
    const stored = reason.build
      ? await build(store, inputs, progress, signal)
      : { manifest: reason.manifest };
    if (!reason.build) progress.step("image", `${store.directory(content.kernel.release)} is current`);
    if (options.link) await store.link(content.kernel.release, stored.manifest);
    const result = describeResult(store, options, reason, stored, started);
    progress.step(
      "done",
      `${result.initrd} ${options.link ? "(linked)" : "(not linked)"}`,
      result.durationMs,
    );
    return result;
  } finally {
    await undo.disposeAsync();
  }
}

type BuildReason =
  | { readonly build: true; readonly text: string }
  | { readonly build: false; readonly text: string; readonly manifest: ImageManifest };

async function whyBuild(
  store: ImageStore,
  content: ImageContent,
  onlyIfNeeded: boolean,
): Promise<BuildReason> {
  if (!onlyIfNeeded) return { build: true, text: "asked for" };
  const { release } = content.kernel;
  const image = await store.read(release);
  if (image === undefined) return { build: true, text: `there is no image for kernel ${release}` };
  if (image.manifest === undefined)
    return { build: true, text: image.problem ?? "its manifest is unreadable" };
  const difference = firstDifference(image.manifest, content);
  if (difference !== undefined) return { build: true, text: `${difference} changed` };
  const damage = await store.damage(release, image.manifest);
  if (damage !== undefined) return { build: true, text: damage };
  return { build: false, text: "the image matches kernel, modules and agent", manifest: image.manifest };
}

function firstDifference(manifest: ImageManifest, content: ImageContent): string | undefined {
  if (sameContent(manifest, content)) return undefined;
  const parts: readonly (readonly [keyof ImageContent, string])[] = [
    ["kernel", "the kernel"],
    ["agent", "the agent"],
    ["modules", "the set of modules"],
    ["extraFiles", "the set of extra files"],
    ["compression", "the compression"],
  ];
  const changed = parts.find(([key]) => JSON.stringify(manifest[key]) !== JSON.stringify(content[key]));
  return changed?.[1] ?? "the builder or its options";
}

async function readInputs(
  options: GenerateOptions,
  progress: Progress,
  signal?: AbortSignal,
): Promise<Inputs> {
  const kernel = await findKernel(options.kernel, options.places);
  progress.step("kernel", `${kernel.release}: ${kernel.reason}`);
  progress.detail(`image ${kernel.image.path}, modules ${kernel.modulesDir}`);
  const agent = await readInput(options.agent, "the guest agent").catch((error: unknown) => {
    if (!(error instanceof SandboxError) || error.code !== "ERR_NOT_FOUND") throw error;
    throw new SandboxError(
      "ERR_NOT_FOUND",
      `${error.message}; npm run build makes it, --agent names another`,
    );
  });
  checkAgent(agent, options.agent);
  const tree = await ModuleTree.open(kernel.modulesDir, kernel.release, !loadsUnsignedModules(kernel.config));
  if (!tree.hasModulesDep)
    progress.detail("no modules.dep: dependencies are read from the modules themselves");
  const plan = await planModules(kernel, tree, options.extraModules, signal);
  return {
    kernel,
    agent,
    plan,
    extraFiles: options.extraFiles,
    content: contentOf(options, kernel, agent, plan),
  };
}

function contentOf(options: GenerateOptions, kernel: Kernel, agent: Buffer, plan: ModulePlan): ImageContent {
  return {
    format: IMAGE_FORMAT,
    builder: options.builder,
    architecture: "x86_64",
    kernel: { release: kernel.release, ...fingerprint(kernel.image.bytes) },
    agent: { version: agentVersion(agent), ...fingerprint(agent) },
    modules: plan.lines.map(({ module, when, why }) => ({
      name: module.name,
      path: moduleImagePath(kernel.release, module.name),
      when,
      why,
      ...fingerprint(module.bytes),
    })),
    builtin: [...plan.builtin],
    missing: plan.missing.map((wanted) => wanted.name),
    extraFiles: options.extraFiles.map((file) => ({
      path: file.path,
      mode: file.mode.toString(8).padStart(4, "0"),
      ...fingerprint(file.data),
    })),
    compression: chooseCompression(options.compression, kernel),
    sourceDateEpoch: options.sourceDateEpoch,
  };
}

/**
 * Auto is none: the kernel copies an uncompressed initrd in less time than it unpacks any of the others, at 3 MB as at
 * 40 MB (docs/decisions/0008-image-compression.md).
 */
function chooseCompression(wanted: "auto" | InitrdCompression, kernel: Kernel): InitrdCompression {
  if (wanted === "auto" || wanted === "none") return "none";
  const symbol = initrdConfigSymbol[wanted];
  if (kernel.config !== undefined && kernel.config.get(symbol) !== "y") {
    throw new SandboxError(
      "ERR_UNSUPPORTED",
      `kernel ${kernel.release} cannot unpack a ${wanted} initrd (${symbol} is off); use --compress none`,
    );
  }
  return wanted;
}

function reportModules(plan: ModulePlan, progress: Progress): void {
  const unique = new Set(plan.lines.map((line) => line.module));
  const bytes = [...unique].reduce((total, module) => total + module.bytes.length, 0);
  progress.step("modules", `${unique.size} modules, ${formatBytes(bytes)}`);
  for (const { module, when, why } of plan.lines) {
    progress.detail(
      `${when.padEnd(14)} ${module.name.padEnd(34)} ${formatBytes(module.bytes.length).padStart(7)}  ${why}`,
    );
  }
  if (plan.builtin.length > 0) progress.detail(`built in       ${plan.builtin.join(", ")}`);
  for (const wanted of plan.missing)
    progress.warn(`the kernel has no ${wanted.feature}; the guest does without`);
}

async function build(
  store: ImageStore,
  inputs: Inputs,
  progress: Progress,
  signal?: AbortSignal,
): Promise<{ manifest: ImageManifest; sizes: InitrdSizes }> {
  reportModules(inputs.plan, progress);
  const files = new Map<ImageFileName, Uint8Array>();
  await addKernel(files, inputs.kernel, progress, signal);
  const sizes = await addInitrd(files, inputs, progress, signal);
  signal?.throwIfAborted();
  const started = performance.now();
  const manifest = await store.publish(inputs.content, files);
  progress.step("write", store.directory(inputs.kernel.release), performance.now() - started);
  return { manifest, sizes };
}

async function addKernel(
  files: Map<ImageFileName, Uint8Array>,
  kernel: Kernel,
  progress: Progress,
  signal?: AbortSignal,
): Promise<void> {
  const { image } = kernel;
  const started = performance.now();
  if (image.kind === "bzImage") files.set("vmlinuz", image.bytes);
  try {
    const vmlinux = await extractVmlinux(image, signal);
    files.set("vmlinux", vmlinux);
    progress.step(
      "vmlinux",
      `${formatBytes(vmlinux.length)}, boots without unpacking`,
      performance.now() - started,
    );
  } catch (error) {
    // A missing program is soon installed; an image without vmlinux would stay slow until the next kernel.
    const hopeless = error instanceof SandboxError && error.code !== "ERR_HOST";
    if (!hopeless || image.kind === "elf" || signal?.aborted === true) throw error;
    progress.warn(`${error.message}; guests boot the compressed kernel, which takes longer`);
  }
}

async function addInitrd(
  files: Map<ImageFileName, Uint8Array>,
  inputs: Inputs,
  progress: Progress,
  signal?: AbortSignal,
): Promise<InitrdSizes> {
  const started = performance.now();
  const { content, agent, plan } = inputs;
  const { archive, sizes } = buildInitrd({
    content,
    agent,
    modules: plan.lines,
    extraFiles: inputs.extraFiles,
  });
  const initrd = await compressInitrd(content.compression, archive, signal);
  files.set("caisson-initrd.img", initrd);
  const how =
    content.compression === "none"
      ? "uncompressed"
      : `${content.compression}, ${formatBytes(archive.length)} unpacked`;
  progress.step("initrd", `${formatBytes(initrd.length)} (${how})`, performance.now() - started);
  const parts = [`agent ${formatBytes(sizes.agent)}`, `modules ${formatBytes(sizes.modules)}`];
  if (sizes.extraFiles > 0) parts.push(`extra files ${formatBytes(sizes.extraFiles)}`);
  progress.detail(`${parts.join(", ")}, other ${formatBytes(sizes.other)}`);
  if (initrd.length > INITRD_BUDGET_BYTES) {
    progress.warn(
      `the initrd is over its budget of ${formatBytes(INITRD_BUDGET_BYTES)}; every guest pays for it in memory`,
    );
  }
  return sizes;
}

function describeResult(
  store: ImageStore,
  options: GenerateOptions,
  reason: BuildReason,
  stored: { manifest: ImageManifest; sizes?: InitrdSizes },
  started: number,
): GenerateResult {
  const { manifest } = stored;
  const directory = store.directory(manifest.kernel.release);
  return {
    built: reason.build,
    reason: reason.text,
    directory,
    initrd: `${directory}/caisson-initrd.img`,
    kernel: `${directory}/${manifest.files.vmlinux === undefined ? "vmlinuz" : "vmlinux"}`,
    linked: options.link,
    sizes: stored.sizes,
    manifest,
    durationMs: Math.round(performance.now() - started),
  };
}
