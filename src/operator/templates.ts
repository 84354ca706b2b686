/** The templates of this host for `shim factory`: which there are, which the configuration asks for. */
import { readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { errnoOf, SandboxError } from "../base/errors.ts";
import { type Config, checkPaths } from "../config/index.ts";
import { detectAccel } from "../hypervisor/accel.ts";
import { startTscMeasurement } from "../native/index.ts";
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

/** Milliseconds over which the time stamp counter is measured. */
const TSC_MS = 100;
/** Directories of templates that are being made begin with it. */
export const UNFINISHED = ".new-";

export interface WantedTemplate {
  /** Directory of the templates. */
  readonly dir: string;
  readonly key: string;
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
export async function wantedTemplate(config: Config): Promise<WantedTemplate> {
  const obstacle = templateObstacle(config);
  if (obstacle !== undefined) throw new SandboxError("ERR_CONFIG", obstacle);
  const paths = checkPaths(config);
  const unlimited = { ociVersion: "1.0.2" };
  const limits = hostSizeLimits(config);
  const size = machineSize(unlimited, limits);
  const { maxCpus, maxMemoryMiB } = growthLimits(size, limits);
  const accel = config.hypervisor.accel === "auto" ? detectAccel().accel : config.hypervisor.accel;
  const tscKhz = accel === "tcg" ? await measureTsc() : undefined;
  const maxSize = { cpus: maxCpus, memoryMiB: maxMemoryMiB };
  const machine = machineConfig({ config, paths, accel, size, maxSize }, tscKhz);
  return { dir: templatesDir(config), key: templateKey(machine, paths.qemu), machine, qemu: paths.qemu };
}

async function measureTsc(): Promise<number | undefined> {
  const measured = startTscMeasurement();
  await delay(TSC_MS);
  return measured();
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
  const found = names(dir).filter((name) => !name.startsWith(UNFINISHED));
  const facts = found.flatMap((key) => {
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

/** Removes what is in `dir` and `useless`, and what was never finished. @returns how many templates */
export function removeTemplates(dir: string, useless: (path: string) => boolean): number {
  const going = names(dir).filter((name) =>
    name.startsWith(UNFINISHED) ? !isBeingMade(name) : useless(join(dir, name)),
  );
  for (const name of going) rmSync(join(dir, name), { recursive: true, force: true });
  return going.filter((name) => !name.startsWith(UNFINISHED)).length;
}

/** Whether no machine can use the template in `path` any more. */
export function isOutdated(path: string): boolean {
  try {
    return !holds(JSON.parse(readFileSync(join(path, BASIS_FILE), "utf8")) as TemplateBasis);
  } catch {
    return true;
  }
}

/** Its name tells who makes it: UNFINISHED, the pid, a dash, random letters. */
function isBeingMade(name: string): boolean {
  const pid = Number(name.slice(UNFINISHED.length).split("-")[0]);
  if (!name.startsWith(UNFINISHED) || !(pid > 0)) return false;
  try {
    return readFileSync(`/proc/${pid}/comm`, "latin1") !== "";
  } catch {
    return false;
  }
}

function names(dir: string): string[] {
  try {
    return readdirSync(dir);
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return [];
    throw error;
  }
}
