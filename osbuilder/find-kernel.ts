/** Finds the kernel to build an image for: its modules, its image and its configuration. */
import { readdir, readFile, stat } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { errnoOf, SandboxError } from "../src/base/errors.ts";
import { type KernelImage, readKernelImage } from "./bzimage.ts";

export interface KernelChoice {
  /** `--kernel-release`. */
  readonly release?: string | undefined;
  /** `--modules-dir`: the directory that holds modules.dep or modules.order, e.g. /lib/modules/6.1.0. */
  readonly modulesDir?: string | undefined;
  /** `--kernel-image`. */
  readonly image?: string | undefined;
}

/** Where a host keeps kernels; replaced in tests. */
export interface KernelPlaces {
  readonly runningRelease: string;
  readonly modulesRoot: string;
  readonly bootDir: string;
}

export interface Kernel {
  readonly release: string;
  /** Why this one, for the progress output. */
  readonly reason: string;
  readonly modulesDir: string;
  readonly image: KernelImage;
  /** Configuration symbols, e.g. CONFIG_PVH to "y"; undefined when no configuration file was found. */
  readonly config: ReadonlyMap<string, string> | undefined;
}

/**
 * The kernel that `choice` names; without one, the running kernel or, where that has no modules here, the newest
 * installed.
 * @throws SandboxError ERR_NOT_FOUND when there is no such kernel, ERR_INVALID_ARGUMENT when image and modules are of
 * different releases.
 */
export async function findKernel(choice: KernelChoice, places: KernelPlaces): Promise<Kernel> {
  const { release, reason, modulesDir } = await chooseModules(choice, places);
  const imagePath = choice.image ?? (await findImage(release, modulesDir, places));
  const image = readKernelImage(imagePath, await readInput(imagePath, "the kernel image"));
  if (image.release !== undefined && image.release !== release) {
    throw new SandboxError(
      "ERR_INVALID_ARGUMENT",
      `${imagePath} is kernel ${image.release}, but the modules in ${modulesDir} are of ${release}; ` +
        "give --kernel-image and --modules-dir (or --kernel-release) of one kernel",
    );
  }
  const config = await findConfig(release, [dirname(imagePath), modulesDir, places.bootDir]);
  return { release, reason, modulesDir, image, config };
}

/** Releases under `places.modulesRoot` that have modules, newest first. */
export async function installedReleases(places: KernelPlaces): Promise<string[]> {
  const names = await readdir(places.modulesRoot).catch((error: unknown) => {
    if (errnoOf(error) === "ENOENT") return [];
    throw error;
  });
  const found: string[] = [];
  for (const name of names) if (await hasModules(join(places.modulesRoot, name))) found.push(name);
  return found.sort(compareReleases).reverse();
}

/** Orders kernel releases as versions: runs of digits by value, the rest by character. */
export function compareReleases(a: string, b: string): number {
  const split = (text: string) => text.match(/\d+|\D+/g) ?? [];
  const left = split(a);
  const right = split(b);
  for (let i = 0; i < Math.max(left.length, right.length); i++) {
    const x = left[i] ?? "";
    const y = right[i] ?? "";
    const byValue = /^\d/.test(x) && /^\d/.test(y) ? Number(x) - Number(y) : 0;
    if (byValue !== 0) return byValue;
    if (x !== y) return x < y ? -1 : 1;
  }
  return 0;
}

interface ModulesChoice {
  readonly release: string;
  readonly reason: string;
  readonly modulesDir: string;
}

async function chooseModules(choice: KernelChoice, places: KernelPlaces): Promise<ModulesChoice> {
  if (choice.modulesDir !== undefined) {
    const modulesDir = resolve(choice.modulesDir);
    if (!(await hasModules(modulesDir))) {
      throw new SandboxError(
        "ERR_NOT_FOUND",
        `${modulesDir} holds neither modules.dep nor modules.order; --modules-dir takes the directory of one kernel, such as /lib/modules/6.1.0`,
      );
    }
    const release = choice.release ?? basename(modulesDir);
    return { release, modulesDir, reason: `modules from ${modulesDir}` };
  }
  if (choice.release !== undefined) {
    const modulesDir = join(places.modulesRoot, choice.release);
    if (await hasModules(modulesDir)) return { release: choice.release, modulesDir, reason: "as asked for" };
    throw new SandboxError(
      "ERR_NOT_FOUND",
      `kernel ${choice.release} has no modules in ${modulesDir}; ${await installedHint(places)}`,
    );
  }
  return defaultModules(places);
}

async function defaultModules(places: KernelPlaces): Promise<ModulesChoice> {
  const running = places.runningRelease;
  const ownDir = join(places.modulesRoot, running);
  if (await hasModules(ownDir)) return { release: running, modulesDir: ownDir, reason: "the running kernel" };
  const newest = (await installedReleases(places))[0];
  if (newest === undefined) {
    throw new SandboxError(
      "ERR_NOT_FOUND",
      `no kernel to build an image from: ${await installedHint(places)}`,
    );
  }
  return {
    release: newest,
    modulesDir: join(places.modulesRoot, newest),
    reason: `the newest installed; the running ${running} has no modules in ${places.modulesRoot}`,
  };
}

async function installedHint(places: KernelPlaces): Promise<string> {
  const releases = await installedReleases(places);
  if (releases.length > 0) return `installed are ${releases.join(", ")}`;
  return `${places.modulesRoot} holds no kernel; on Debian: apt install linux-image-cloud-amd64`;
}

async function findImage(release: string, modulesDir: string, places: KernelPlaces): Promise<string> {
  // Debian and Ubuntu: /boot; Fedora and RHEL CoreOS: beside the modules.
  const candidates = [join(places.bootDir, `vmlinuz-${release}`), join(modulesDir, "vmlinuz")];
  for (const candidate of candidates) if (await isFile(candidate)) return candidate;
  throw new SandboxError(
    "ERR_NOT_FOUND",
    `no image of kernel ${release}: looked for ${candidates.join(" and ")}; name it with --kernel-image`,
  );
}

async function findConfig(
  release: string,
  dirs: readonly string[],
): Promise<ReadonlyMap<string, string> | undefined> {
  for (const dir of dirs) {
    for (const name of [`config-${release}`, "config"]) {
      const path = join(dir, name);
      if (await isFile(path)) return parseKernelConfig(await readFile(path, "latin1"));
    }
  }
  return undefined;
}

/** The symbols that a kernel's .config sets; unset ones are absent. */
export function parseKernelConfig(text: string): ReadonlyMap<string, string> {
  const symbols = new Map<string, string>();
  for (const line of text.split("\n")) {
    const match = /^(CONFIG_\w+)=(.*)$/.exec(line);
    if (match?.[1] !== undefined && match[2] !== undefined) symbols.set(match[1], match[2]);
  }
  return symbols;
}

async function hasModules(dir: string): Promise<boolean> {
  return (await isFile(join(dir, "modules.dep"))) || (await isFile(join(dir, "modules.order")));
}

async function isFile(path: string): Promise<boolean> {
  const found = await stat(path).catch(() => undefined);
  return found?.isFile() === true;
}

/**
 * The content of an input file.
 * @param role what the file is for: "the agent".
 * @throws SandboxError ERR_NOT_FOUND, ERR_PERMISSION or ERR_INVALID_ARGUMENT, naming the path.
 */
export async function readInput(path: string, role: string): Promise<Buffer> {
  try {
    return await readFile(path);
  } catch (cause) {
    const errno = errnoOf(cause);
    if (errno === "ENOENT")
      throw new SandboxError("ERR_NOT_FOUND", `${role} ${path} does not exist`, { cause });
    if (errno === "EACCES" || errno === "EPERM") {
      throw new SandboxError("ERR_PERMISSION", `${role} ${path} may not be read; run as root`, { cause });
    }
    throw new SandboxError("ERR_INVALID_ARGUMENT", `${role} ${path} cannot be read`, { cause });
  }
}
