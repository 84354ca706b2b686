/** The commands of osbuilder, from parsed arguments to output. */
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { SandboxError } from "../src/base/errors.ts";
import { table } from "../src/cli/index.ts";
import {
  type Arguments,
  parseCommandLine,
  parseSourceDateEpoch,
  parseWith,
  UsageError,
} from "./arguments.ts";
import { commandHelp, programHelp } from "./commands.ts";
import { type InitrdCompression, initrdCompressions } from "./compression.ts";
import { type KernelPlaces, readInput } from "./find-kernel.ts";
import { type GenerateResult, generate } from "./generate.ts";
import { DEFAULT_IMAGE_DIR, ImageStore, type StoredImage } from "./image-store.ts";
import type { ExtraFile } from "./initrd.ts";
import { formatBytes, type Progress, silentProgress, textProgress } from "./progress.ts";
import { applyPrune, decidePrune, usedImagePaths } from "./prune.ts";

/** What the program has from its surroundings. */
export interface CliHost {
  readonly stdout: (text: string) => void;
  readonly stderr: (text: string) => void;
  readonly places: KernelPlaces;
  /** Directory that holds guest/agent. */
  readonly programRoot: string;
  readonly runRoot: string;
  readonly version: string;
  readonly sourceDateEpoch: string | undefined;
}

/**
 * Runs one command line.
 * @returns nothing; the exit status is 0.
 * @throws UsageError (exit status 2) or SandboxError (1).
 */
export async function runCli(argv: readonly string[], host: CliHost, signal: AbortSignal): Promise<void> {
  const invocation = parseCommandLine(argv);
  if (invocation.kind === "version") return host.stdout(`osbuilder (Caisson) ${host.version}\n`);
  if (invocation.kind === "help") {
    return host.stdout(invocation.command === undefined ? programHelp() : commandHelp(invocation.command));
  }
  const { command, arguments: args } = invocation;
  const run = handlers[command.name];
  if (run === undefined) throw new SandboxError("ERR_INTERNAL", `command ${command.name} has no handler`);
  await run(args, host, signal);
}

type Handler = (args: Arguments, host: CliHost, signal: AbortSignal) => Promise<void>;

const handlers: Readonly<Record<string, Handler>> = {
  generate: runGenerate,
  list: runList,
  show: runShow,
  prune: runPrune,
  verify: runVerify,
};

function storeOf(args: Arguments): ImageStore {
  return new ImageStore(args.value("image-dir") ?? DEFAULT_IMAGE_DIR);
}

function printJson(host: CliHost, value: unknown): void {
  host.stdout(`${JSON.stringify(value, undefined, 2)}\n`);
}

async function runGenerate(args: Arguments, host: CliHost, signal: AbortSignal): Promise<void> {
  args.choice("format", ["initrd"]);
  const compression =
    args.choice<"auto" | InitrdCompression>("compress", ["auto", ...initrdCompressions]) ?? "auto";
  const extraFiles: ExtraFile[] = [];
  for (const text of args.values("with")) extraFiles.push(await readExtraFile(text));
  const result: GenerateResult = await generate(
    {
      kernel: {
        release: args.value("kernel-release"),
        modulesDir: args.value("modules-dir"),
        image: args.value("kernel-image"),
      },
      places: host.places,
      agent: args.value("agent") ?? join(host.programRoot, "guest/agent"),
      imageDir: args.value("image-dir") ?? DEFAULT_IMAGE_DIR,
      extraFiles,
      extraModules: args.values("module"),
      compression,
      onlyIfNeeded: args.flag("check"),
      link: !args.flag("no-link"),
      sourceDateEpoch: parseSourceDateEpoch(host.sourceDateEpoch),
      builder: `caisson-osbuilder ${host.version}`,
    },
    textProgress(host.stderr),
    signal,
  );
  if (args.flag("json")) printJson(host, result);
}

async function readExtraFile(text: string): Promise<ExtraFile> {
  const { source, path } = parseWith(text);
  const data = await readInput(source, "the file to include");
  return { path, data, mode: (await stat(source)).mode & 0o7777 };
}

async function runList(args: Arguments, host: CliHost): Promise<void> {
  const images = await storeOf(args).list();
  if (args.flag("json")) return printJson(host, images.map(jsonOf));
  if (args.flag("releases")) return host.stdout(images.map((image) => `${image.release}\n`).join(""));
  if (images.length === 0) return host.stderr(`there are no images in ${storeOf(args).imagesDir}\n`);
  const rows = images.map((image) => [
    image.current ? "*" : "",
    image.release,
    image.manifest === undefined ? "damaged" : formatBytes(image.manifest.files["caisson-initrd.img"].bytes),
    image.manifest?.agent.version ?? "unknown",
    new Date(image.builtAt).toISOString().slice(0, 16).replace("T", " "),
  ]);
  host.stdout(table(["", "KERNEL", "INITRD", "AGENT", "BUILT (UTC)"], rows));
}

function jsonOf(image: StoredImage): unknown {
  const { builtAt, ...rest } = image;
  return { ...rest, builtAt: new Date(builtAt).toISOString() };
}

async function runShow(args: Arguments, host: CliHost): Promise<void> {
  const store = storeOf(args);
  const image = await findImage(store, args.operands[0] ?? "");
  const { manifest } = image;
  if (manifest === undefined)
    throw new SandboxError("ERR_STATE", `image ${image.release} is damaged: ${image.problem}`);
  if (args.flag("json")) return printJson(host, jsonOf(image));
  const lines = [
    `image      ${image.directory}${image.current ? " (current)" : ""}`,
    `kernel     ${manifest.kernel.release}, ${formatBytes(manifest.kernel.bytes)}, sha256 ${manifest.kernel.sha256}`,
    `agent      ${manifest.agent.version ?? "unknown version"}, ${formatBytes(manifest.agent.bytes)}, sha256 ${manifest.agent.sha256}`,
    `builder    ${manifest.builder}, format ${manifest.format}, compression ${manifest.compression}`,
    ...Object.entries(manifest.files).map(
      ([name, file]) => `file       ${name}: ${formatBytes(file?.bytes ?? 0)}, sha256 ${file?.sha256}`,
    ),
    ...manifest.modules.map((m) => `module     ${m.when.padEnd(14)} ${m.name}: ${m.why}`),
    ...(manifest.builtin.length > 0 ? [`built in   ${manifest.builtin.join(", ")}`] : []),
    ...(manifest.missing.length > 0 ? [`missing    ${manifest.missing.join(", ")}`] : []),
    ...manifest.extraFiles.map(
      (file) => `extra      ${file.path} (${file.mode}), ${formatBytes(file.bytes)}`,
    ),
  ];
  host.stdout(`${lines.join("\n")}\n`);
}

/** The image that `wanted` names: a release, a unique start of one, or "current". */
async function findImage(store: ImageStore, wanted: string): Promise<StoredImage> {
  const images = await store.list();
  const exact = images.filter((image) => (wanted === "current" ? image.current : image.release === wanted));
  const found = exact.length > 0 ? exact : images.filter((image) => image.release.startsWith(wanted));
  if (found.length === 1 && found[0] !== undefined) return found[0];
  const known = images.map((image) => image.release).join(", ") || "none; osbuilder generate builds one";
  throw new SandboxError(
    "ERR_NOT_FOUND",
    found.length === 0
      ? `there is no image "${wanted}" in ${store.imagesDir}; there are ${known}`
      : `"${wanted}" fits several images: ${found.map((image) => image.release).join(", ")}`,
  );
}

async function runPrune(args: Arguments, host: CliHost, signal: AbortSignal): Promise<void> {
  const keepText = args.value("keep") ?? "2";
  if (!/^\d{1,4}$/.test(keepText)) throw new UsageError(`--keep takes a whole number, not "${keepText}"`);
  const store = storeOf(args);
  const progress: Progress = args.flag("json") ? silentProgress : textProgress(host.stderr);
  const lock = await store.lock(() => progress.warn("another osbuilder is at work; waiting for it"), signal);
  try {
    const used = await usedImagePaths(host.runRoot);
    const decisions = decidePrune(await store.list(), used, Number(keepText));
    if (!args.flag("dry-run")) await applyPrune(store, decisions);
    const verb = args.flag("dry-run") ? "would remove" : "removed";
    for (const { image, keep } of decisions)
      progress.step(
        keep === undefined ? verb : "kept",
        `${image.release}${keep === undefined ? "" : `: ${keep}`}`,
      );
    if (args.flag("json")) {
      printJson(
        host,
        decisions.map(({ image, keep }) => ({ release: image.release, removed: keep === undefined, keep })),
      );
    }
  } finally {
    await lock[Symbol.asyncDispose]();
  }
}

async function runVerify(args: Arguments, host: CliHost, signal: AbortSignal): Promise<void> {
  const store = storeOf(args);
  const image = await findImage(store, args.operands[0] ?? "");
  const progress = textProgress(host.stderr);
  progress.step("image", image.directory);
  const { verify } = await import("./verify.ts"); // the runtime is loaded only here
  const options = { configPath: args.value("config"), runRoot: host.runRoot };
  const result = await verify(store, image, options, progress, signal);
  progress.step(
    "guest",
    `kernel ${result.kernelRelease}, agent ${result.agentVersion}, ${result.accelerator}`,
  );
  for (const [step, ms] of Object.entries(result.guestSteps))
    progress.detail(`guest ${step.padEnd(12)} at ${ms.toFixed(0)} ms of uptime`);
  for (const [step, ms] of Object.entries(result.hostSteps))
    progress.detail(`host  ${step.padEnd(12)} after ${ms.toFixed(0)} ms`);
  progress.step("done", "the image boots and the guest reads its shared file system");
  if (args.flag("json")) printJson(host, result);
}
