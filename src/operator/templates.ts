/** The templates of this host for `shim factory`: which there are, which the configuration asks for, which nobody does. */
import {
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { errnoOf, SandboxError } from "../base/errors.ts";
import { type Config, checkPaths, loadConfig } from "../config/index.ts";
import { detectAccel } from "../hypervisor/accel.ts";
import { closeFd, lockFile, tryLock } from "../native/index.ts";
import { hostSizeLimits } from "../runtime/host-size.ts";
import { type MachineConfig, machineConfig } from "../runtime/machine-config.ts";
import { growthLimits, machineSize } from "../runtime/sizing.ts";
import {
  BASIS_FILE,
  holds,
  MEMORY_FILE,
  type TemplateBasis,
  templateKey,
  templatesDir,
} from "../runtime/template.ts";

/** Directories of templates that are being made begin with it; six random letters follow (mkdtemp(3)). */
export const UNFINISHED = ".new-";
const UNFINISHED_NAME = /^\.new-[A-Za-z0-9]{6}$/;
/** Name of a template (templateKey()). What else is in their directory is somebody else's. */
const KEY = /^[0-9a-f]{32}$/;
/** The configurations that asked for a template: their files, as a JSON array. */
const CONFIGURATIONS_FILE = "configurations.json";
/** The one that the search finds. */
export const DEFAULT_CONFIGURATION = "";

export interface WantedTemplate {
  /** Directory of the templates. */
  readonly dir: string;
  readonly key: string;
  /** Without the frequency of an emulated time stamp counter. */
  readonly machine: MachineConfig;
  readonly qemu: string;
}

/** Why machines of this configuration always start their kernel; undefined: they need not. */
export function templateObstacle({ factory, hypervisor }: Config): string | undefined {
  if (!factory.enableTemplate) return "templates are off: enable_template = true in [factory] turns them on";
  if (hypervisor.enableHugepages)
    return "a guest whose memory is huge pages (enable_hugepages) has no template";
  return undefined;
}

/**
 * The template for pods and containers without limits, as `config` has them.
 * @throws ERR_CONFIG, also where no template can be used
 */
export function wantedTemplate(config: Config): WantedTemplate {
  const obstacle = templateObstacle(config);
  if (obstacle !== undefined) throw new SandboxError("ERR_CONFIG", obstacle);
  const paths = checkPaths(config);
  const unlimited = { ociVersion: "1.0.2" };
  const limits = hostSizeLimits(config);
  const size = machineSize(unlimited, limits);
  const { maxCpus, maxMemoryMiB } = growthLimits(size, limits);
  const accel = config.hypervisor.accel === "auto" ? detectAccel().accel : config.hypervisor.accel;
  const maxSize = { cpus: maxCpus, memoryMiB: maxMemoryMiB };
  const machine = machineConfig({ config, paths, accel, size, maxSize }, undefined);
  return { dir: templatesDir(config), key: templateKey(machine, paths.qemu), machine, qemu: paths.qemu };
}

export interface TemplateFacts {
  readonly key: string;
  readonly path: string;
  readonly madeAt: Date;
  /** On the disk. */
  readonly bytes: number;
}

/** The templates in `dir`, the newest first. */
export function listTemplates(dir: string): TemplateFacts[] {
  const facts = names(dir, KEY).flatMap((key) => {
    const path = join(dir, key);
    try {
      const { blocks, mtime } = statSync(join(path, MEMORY_FILE));
      return [{ key, path, madeAt: mtime, bytes: blocks * 512 }];
    } catch {
      return []; // it goes just now
    }
  });
  return facts.sort((a, b) => b.madeAt.getTime() - a.madeAt.getTime());
}

/**
 * Until the descriptor is closed, no other makes or removes templates in `dir`, which is made.
 * @param waits called when another does
 */
export async function lockTemplates(dir: string, waits: () => void, signal: AbortSignal): Promise<number> {
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  const fd = openSync(dir, "r");
  if (tryLock(fd)) return fd;
  closeFd(fd);
  waits();
  // With the dot no file is made where the directory is gone.
  return await lockFile(`${dir}/.`, signal);
}

/**
 * Removes what was never finished, and the templates that are `useless`; the caller has the lock.
 * @returns how many templates
 */
export async function removeTemplates(
  dir: string,
  useless: (path: string) => boolean | Promise<boolean>,
): Promise<number> {
  const remove = (path: string) => rmSync(path, { recursive: true, force: true });
  for (const name of names(dir, UNFINISHED_NAME)) remove(join(dir, name));
  let removed = 0;
  for (const path of names(dir, KEY).map((key) => join(dir, key))) {
    if (!(await useless(path))) continue;
    remove(path);
    removed += 1;
  }
  return removed;
}

/** Whether no machine of any configuration that asked for the template in `path` can use it any more. */
export async function isUseless(path: string): Promise<boolean> {
  return isOutdated(path) || (await configurationsOf(path)).length === 0;
}

/** Whether no machine can use the template in `path` any more. */
export function isOutdated(path: string): boolean {
  try {
    return !holds(JSON.parse(readFileSync(join(path, BASIS_FILE), "utf8")) as TemplateBasis);
  } catch {
    return true;
  }
}

/** Notes which configurations ask for the template in `path`; the caller has the lock. */
export function noteConfigurations(path: string, files: ReadonlySet<string>): void {
  writeFileSync(join(path, CONFIGURATIONS_FILE), JSON.stringify([...files]), { mode: 0o600 });
}

/** The configurations that asked for the template in `path` and still do. */
export async function configurationsOf(path: string): Promise<string[]> {
  const files = notedConfigurations(path);
  const asking = await Promise.all(files.map((file) => asksFor(path, file)));
  return files.filter((_, index) => asking[index]);
}

function notedConfigurations(path: string): string[] {
  try {
    return JSON.parse(readFileSync(join(path, CONFIGURATIONS_FILE), "utf8")) as string[];
  } catch {
    return []; // whoever made it was killed
  }
}

/** Of a configuration that is there but wrong it cannot be told, so it does. */
async function asksFor(path: string, file: string): Promise<boolean> {
  try {
    const config = await loadConfig({ path: file, env: {} });
    if (templateObstacle(config) !== undefined) return false;
    const { dir, key } = wantedTemplate(config);
    return join(dir, key) === path;
  } catch {
    return file === DEFAULT_CONFIGURATION || existsSync(file);
  }
}

function names(dir: string, pattern: RegExp): string[] {
  try {
    return readdirSync(dir).filter((name) => pattern.test(name));
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return [];
    throw error;
  }
}
