/** Finding, reading and checking the configuration. The keys themselves are in keys.ts. */
import { readdirSync, readFileSync } from "node:fs";
import { dirname, isAbsolute, join } from "node:path";
import { errnoOf, SandboxError } from "../base/errors.ts";
import { logField } from "../base/log-fields.ts";
import { applyAnnotations } from "./annotations.ts";
import type { ConfigValues } from "./keys.ts";
import { Layers } from "./layers.ts";

/** Where the configuration is looked for when none is named, best first. */
export const DEFAULT_CONFIG_PATHS = [
  "/etc/caisson/configuration.toml",
  "/usr/share/caisson/defaults/configuration.toml",
] as const;

/** Names the configuration file where the caller names none; for tests and development. */
export const CONFIG_ENV = "CAISSON_CONF_FILE";

/** Directory beside a configuration file whose *.toml are laid over it, in the order of their names. */
const DROP_IN_DIRECTORY = "config.d";

/** Links that `osbuilder generate` keeps in the image directory. */
const KERNEL_LINK = "vmlinuz.container";
const INITRD_LINK = "caisson-initrd.img";

/** Everything that is configured, deeply frozen. */
export interface Config extends ConfigValues {
  /** The files read, in the order in which they were laid over each other; empty for the built-in defaults. */
  readonly files: readonly string[];
  /** For each key that is not a default ("hypervisor.qemu.default_memory"): the file or annotation it came from. */
  readonly origins: Readonly<Record<string, string>>;
  /** What was passed over, to be logged once: sentences. */
  readonly warnings: readonly string[];
}

export interface LoadConfigInit {
  /** The file named by containerd's runtime options (ConfigPath); empty or absent: search. */
  readonly path?: string;
  /** The pod's annotations; only those of ours and Kata's prefix are looked at. */
  readonly annotations?: Readonly<Record<string, string>>;
  /** Default: the process environment. */
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** Search order; for tests. */
  readonly searchPaths?: readonly string[];
}

/**
 * Where the configuration would be taken from: every file that is looked at, in the order of the search and then of the
 * drop-ins, with what becomes of it.
 * @throws SandboxError ERR_PERMISSION, ERR_CONFIG
 */
export function searchConfig(
  init: Pick<LoadConfigInit, "path" | "env" | "searchPaths"> = {},
): readonly { readonly path: string; readonly role: "base" | "drop-in" | "absent" | "passed over" }[] {
  const [base, ...dropIns] = findFiles(init);
  const named = init.path || (init.env ?? process.env)[CONFIG_ENV];
  const candidates =
    named !== undefined && named !== "" ? [named] : [...(init.searchPaths ?? DEFAULT_CONFIG_PATHS)];
  const isBase = (path: string) => path === base && candidates.includes(path);
  const roleOf = (path: string) =>
    isBase(path) ? "base" : readIfThere(path) === undefined ? "absent" : "passed over";
  const laidOver = base === undefined || candidates.includes(base) ? dropIns : [base, ...dropIns];
  return [
    ...candidates.map((path) => ({ path, role: roleOf(path) }) as const),
    ...laidOver.map((path) => ({ path, role: "drop-in" }) as const),
  ];
}

/**
 * Loads the configuration: the file (`path`, else $CAISSON_CONF_FILE, else the first of DEFAULT_CONFIG_PATHS that
 * exists, else built-in defaults), its drop-ins, the allowed annotations.
 *
 * Drop-ins are config.d/*.toml beside the file; when the file was found by search, those in the first search path's
 * directory count too, so that an administrator's small additions survive with the distribution's file.
 * @throws SandboxError ERR_CONFIG naming file, key and what is allowed; ERR_PERMISSION.
 */
export async function loadConfig(init: LoadConfigInit = {}): Promise<Config> {
  const layers = new Layers();
  const files = findFiles(init);
  if (files.length > 0) {
    const { parse } = await import("smol-toml");
    for (const file of files) addFile(layers, file, parse);
  }
  applyAnnotations(layers, init.annotations ?? {});
  const values = withImageDefaults(layers.values());
  checkTogether(values, files);
  return deepFreeze({ ...values, files, origins: layers.origins(), warnings: layers.warnings });
}

/**
 * Whether a file that loadConfig() would read sets a key of this name: without parsing, so it may say so in vain.
 * @throws SandboxError ERR_PERMISSION, ERR_CONFIG
 */
export function mentionsKey(
  name: string,
  init: Pick<LoadConfigInit, "path" | "env" | "searchPaths">,
): boolean {
  return findFiles(init).some((file) => new RegExp(`^[^#\\n]*${name}`, "m").test(readIfThere(file) ?? ""));
}

function findFiles(init: LoadConfigInit): string[] {
  const named = init.path || (init.env ?? process.env)[CONFIG_ENV];
  const searchPaths = init.searchPaths ?? DEFAULT_CONFIG_PATHS;
  if (named !== undefined && named !== "") {
    if (!isAbsolute(named)) {
      throw new SandboxError(
        "ERR_CONFIG",
        `the configuration file ${named} has to be named by its absolute path`,
      );
    }
    return [named, ...dropIns(dirname(named))];
  }
  const found = searchPaths.find((path) => readIfThere(path) !== undefined);
  const directories = new Set([found, searchPaths[0]].filter((path) => path !== undefined).map(dirname));
  return [...(found === undefined ? [] : [found]), ...[...directories].flatMap(dropIns)];
}

function dropIns(directory: string): string[] {
  const path = join(directory, DROP_IN_DIRECTORY);
  try {
    const names = readdirSync(path).filter((name) => name.endsWith(".toml") && !name.startsWith("."));
    return names.sort().map((name) => join(path, name));
  } catch (cause) {
    if (errnoOf(cause) === "ENOENT" || errnoOf(cause) === "ENOTDIR") return [];
    throw unreadable(path, cause);
  }
}

function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch (cause) {
    if (errnoOf(cause) === "ENOENT" || errnoOf(cause) === "ENOTDIR") return undefined;
    throw unreadable(path, cause);
  }
}

function addFile(layers: Layers, file: string, parse: (text: string) => Record<string, unknown>): void {
  const text = readIfThere(file);
  if (text === undefined) throw invalid(file, "does not exist");
  let document: Record<string, unknown>;
  try {
    document = parse(text);
  } catch (cause) {
    const { line, column, message } = cause as { line?: number; column?: number; message?: string };
    const reason = (message ?? String(cause)).split("\n")[0];
    throw invalid(file, `is not valid TOML: line ${line ?? "?"}, column ${column ?? "?"}: ${reason}`);
  }
  const problems = layers.addDocument(document, file);
  if (problems.length > 0) throw invalid(file, `is wrong: ${problems.join("; ")}`);
}

function withImageDefaults(values: ConfigValues): ConfigValues {
  const { dir } = values.image;
  const directory = dir === "" ? "/var/cache/caisson" : dir;
  return {
    ...values,
    image: { ...values.image, dir: directory },
    hypervisor: {
      ...values.hypervisor,
      kernel: values.hypervisor.kernel || join(directory, KERNEL_LINK),
      initrd: values.hypervisor.initrd || join(directory, INITRD_LINK),
    },
  };
}

/** Rules over several keys; 0 as a limit means the host's size, which is checked where it is known. */
function checkTogether(values: ConfigValues, files: readonly string[]): void {
  const { defaultVcpus, defaultMaxvcpus, defaultMemory, defaultMaxmemory } = values.hypervisor;
  const problems: string[] = [];
  if (defaultMaxvcpus !== 0 && defaultVcpus > defaultMaxvcpus) {
    problems.push(
      `hypervisor.qemu.default_vcpus = ${defaultVcpus} exceeds default_maxvcpus = ${defaultMaxvcpus}`,
    );
  }
  if (defaultMaxmemory !== 0 && defaultMemory > defaultMaxmemory) {
    problems.push(
      `hypervisor.qemu.default_memory = ${defaultMemory} exceeds default_maxmemory = ${defaultMaxmemory} (MiB)`,
    );
  }
  if (problems.length > 0) {
    throw new SandboxError("ERR_CONFIG", `the configuration is wrong: ${problems.join("; ")}`, {
      fields: { files: files.join(" ") },
    });
  }
}

function invalid(file: string, what: string, cause?: unknown): SandboxError {
  return new SandboxError("ERR_CONFIG", `the configuration file ${file} ${what}`, {
    cause,
    fields: { [logField.path]: file },
  });
}

function unreadable(path: string, cause: unknown): SandboxError {
  const code = errnoOf(cause) === "EACCES" ? "ERR_PERMISSION" : "ERR_CONFIG";
  return new SandboxError(code, `the configuration ${path} cannot be read`, {
    cause,
    fields: { [logField.path]: path },
  });
}

function deepFreeze<Value extends object>(value: Value): Value {
  for (const inner of Object.values(value)) {
    if (typeof inner === "object" && inner !== null && !Object.isFrozen(inner)) deepFreeze(inner);
  }
  return Object.freeze(value);
}
