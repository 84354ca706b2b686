/**
 * The modules of one kernel, as /lib/modules/RELEASE holds them, and the closure of their dependencies.
 *
 * Where depmod has run, modules.dep gives the dependencies; where it has not (an unpacked package), each module's own
 * `.modinfo` does, and modules.order gives the names. What is built in stands in modules.builtin and
 * modules.builtin.modinfo.
 */
import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { errnoOf, SandboxError } from "../src/base/errors.ts";
import { decompress, detectFormat } from "./compression.ts";
import { readInput } from "./find-kernel.ts";
import { type Modinfo, moduleName, parseModinfo } from "./modinfo.ts";
import { withoutSignature } from "./module-signature.ts";

/** A module file that was read. */
export interface LoadedModule {
  readonly name: string;
  /** Absolute path of the file on the host. */
  readonly source: string;
  /** Uncompressed; without its signature when the tree was opened so. */
  readonly bytes: Uint8Array;
  readonly info: Modinfo;
}

/** What a name stands for in this kernel. */
export type Located =
  | { readonly kind: "builtin"; readonly name: string }
  | { readonly kind: "file"; readonly name: string };

const MODULE_FILE = /^(?:.*\/)?([^/]+)\.ko(?:\.(?:gz|xz|zst))?$/;

export class ModuleTree {
  readonly release: string;
  readonly dir: string;
  /** Module name to path relative to `dir`. */
  readonly #paths: ReadonlyMap<string, string>;
  /** Module name to names that must be loaded before; undefined where depmod has not run. */
  readonly #depends: ReadonlyMap<string, readonly string[]> | undefined;
  readonly #builtin: ReadonlySet<string>;
  readonly #aliases: readonly (readonly [pattern: string, name: string])[];
  readonly #loaded = new Map<string, LoadedModule>();

  readonly #keepSignatures: boolean;

  private constructor(release: string, dir: string, keepSignatures: boolean, texts: TreeTexts) {
    this.release = release;
    this.dir = dir;
    this.#keepSignatures = keepSignatures;
    const dependencies = texts.dep === undefined ? undefined : parseModulesDep(texts.dep);
    this.#paths = dependencies?.paths ?? pathsByName((texts.order ?? "").split("\n"));
    this.#depends = dependencies?.depends;
    this.#builtin = parseBuiltin(texts.builtin ?? "", texts.builtinModinfo ?? "");
    this.#aliases = [...parseAliases(texts.alias ?? ""), ...parseBuiltinAliases(texts.builtinModinfo ?? "")];
  }

  /**
   * Reads the index files in `dir`; module files are read when asked for.
   * @param keepSignatures whether modules keep the signature that is appended to them.
   */
  static async open(dir: string, release: string, keepSignatures = true): Promise<ModuleTree> {
    const [dep, order, builtin, builtinModinfo, alias] = await Promise.all(
      ["modules.dep", "modules.order", "modules.builtin", "modules.builtin.modinfo", "modules.alias"].map(
        (name) => readOptional(join(dir, name)),
      ),
    );
    return new ModuleTree(release, dir, keepSignatures, { dep, order, builtin, builtinModinfo, alias });
  }

  /** Whether the dependencies come from modules.dep. */
  get hasModulesDep(): boolean {
    return this.#depends !== undefined;
  }

  /** What `name`, a module's name or an alias such as "fs-overlay", stands for; undefined when there is none. */
  locate(name: string): Located | undefined {
    const direct = this.#locateName(moduleName(name));
    if (direct !== undefined) return direct;
    for (const [pattern, target] of this.#aliases) {
      if (matchesAlias(pattern, name)) {
        const found = this.#locateName(target);
        if (found !== undefined) return found;
      }
    }
    return undefined;
  }

  #locateName(name: string): Located | undefined {
    if (this.#paths.has(name)) return { kind: "file", name };
    return this.#builtin.has(name) ? { kind: "builtin", name } : undefined;
  }

  /**
   * Reads a module and checks that it was built for this kernel.
   * Preconditions: `locate(name)` is a file of that name.
   * @throws SandboxError ERR_NOT_FOUND, ERR_INVALID_ARGUMENT (damaged, other kernel), ERR_HOST (no program for xz).
   */
  async load(name: string, signal?: AbortSignal): Promise<LoadedModule> {
    const known = this.#loaded.get(name);
    if (known !== undefined) return known;
    const relative = this.#paths.get(name);
    if (relative === undefined)
      throw new SandboxError("ERR_NOT_FOUND", `${this.dir} lists no module ${name}`);
    const source = await findStored(join(this.dir, relative));
    const stored = await readInput(source, `module ${name}`);
    const format = detectFormat(stored);
    const whole = format === undefined ? stored : await decompress(format, stored, source, signal);
    const bytes = this.#keepSignatures ? whole : withoutSignature(whole);
    const info = parseModinfo(bytes, source);
    if (info.release !== undefined && info.release !== this.release) {
      throw new SandboxError(
        "ERR_INVALID_ARGUMENT",
        `${source} was built for kernel ${info.release}, not for ${this.release}`,
      );
    }
    const module = { name, source, bytes, info };
    this.#loaded.set(name, module);
    return module;
  }

  /**
   * `root` and everything that must be loaded with it, in load order: dependencies and "pre" soft dependencies first,
   * "post" ones last. What is built in is left out. A soft dependency that does not exist is left out, too.
   * @throws SandboxError as load(), and ERR_INVALID_ARGUMENT when a hard dependency is missing or circular.
   */
  async closure(root: string, signal?: AbortSignal): Promise<LoadedModule[]> {
    const order: LoadedModule[] = [];
    await this.#visit(root, [], order, signal);
    return order;
  }

  async #visit(
    name: string,
    path: readonly string[],
    order: LoadedModule[],
    signal?: AbortSignal,
  ): Promise<void> {
    if (order.some((module) => module.name === name)) return;
    if (path.includes(name)) {
      throw new SandboxError(
        "ERR_INVALID_ARGUMENT",
        `the modules in ${this.dir} depend on each other in a circle: ${[...path, name].join(" needs ")}`,
      );
    }
    const trail = [...path, name];
    const module = await this.load(name, signal);
    for (const hard of this.#depends?.get(name) ?? module.info.depends) {
      const found = this.locate(hard);
      if (found === undefined) {
        throw new SandboxError(
          "ERR_INVALID_ARGUMENT",
          `module ${name} needs ${hard}, which ${this.dir} does not hold`,
        );
      }
      if (found.kind === "file") await this.#visit(found.name, trail, order, signal);
    }
    for (const soft of module.info.softBefore) await this.#visitSoft(soft, trail, order, signal);
    if (!order.includes(module)) order.push(module);
    for (const soft of module.info.softAfter) await this.#visitSoft(soft, trail, order, signal);
  }

  async #visitSoft(
    wanted: string,
    trail: readonly string[],
    order: LoadedModule[],
    signal?: AbortSignal,
  ): Promise<void> {
    const found = this.locate(wanted);
    // Soft dependencies may well form circles (a: pre b, b: post a).
    if (found?.kind === "file" && !trail.includes(found.name))
      await this.#visit(found.name, trail, order, signal);
  }
}

interface TreeTexts {
  readonly dep: string | undefined;
  readonly order: string | undefined;
  readonly builtin: string | undefined;
  readonly builtinModinfo: string | undefined;
  readonly alias: string | undefined;
}

async function readOptional(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "latin1");
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return undefined;
    throw error;
  }
}

/** modules.order names "x.ko" even where the file is stored as "x.ko.xz". */
async function findStored(path: string): Promise<string> {
  for (const suffix of ["", ".xz", ".zst", ".gz"]) {
    const found = await stat(path + suffix).catch(() => undefined);
    if (found?.isFile() === true) return path + suffix;
  }
  return path;
}

function nameOfFile(path: string): string | undefined {
  const name = MODULE_FILE.exec(path)?.[1];
  return name === undefined ? undefined : moduleName(name);
}

function pathsByName(paths: readonly string[]): Map<string, string> {
  const found = new Map<string, string>();
  for (const path of paths) {
    const name = nameOfFile(path);
    if (name !== undefined) found.set(name, path);
  }
  return found;
}

/**
 * modules.dep: "path: dependency dependency …", all dependencies of a module, the one to load first at the end
 * (modules.dep(5)).
 */
function parseModulesDep(text: string): {
  paths: Map<string, string>;
  depends: Map<string, readonly string[]>;
} {
  const paths = new Map<string, string>();
  const depends = new Map<string, readonly string[]>();
  for (const line of text.split("\n")) {
    const colon = line.indexOf(":");
    const name = colon < 0 ? undefined : nameOfFile(line.slice(0, colon));
    if (name === undefined) continue;
    paths.set(name, line.slice(0, colon));
    const needed = line
      .slice(colon + 1)
      .split(" ")
      .map(nameOfFile);
    depends.set(name, needed.filter((needed) => needed !== undefined).reverse());
  }
  return { paths, depends };
}

function parseBuiltin(builtin: string, modinfo: string): Set<string> {
  const names = new Set(pathsByName(builtin.split("\n")).keys());
  for (const field of modinfo.split("\0")) {
    // Every built-in module has a "NAME.file=" record since Linux 5.2 (scripts/Makefile.modbuiltin).
    const name = /^([^.=]+)\.file=/.exec(field)?.[1];
    if (name !== undefined) names.add(moduleName(name));
  }
  return names;
}

function parseAliases(text: string): [string, string][] {
  return text.split("\n").flatMap((line): [string, string][] => {
    const [keyword, pattern, name] = line.split(" ");
    return keyword === "alias" && pattern !== undefined && name !== undefined
      ? [[pattern, moduleName(name)]]
      : [];
  });
}

function parseBuiltinAliases(modinfo: string): [string, string][] {
  return modinfo.split("\0").flatMap((field): [string, string][] => {
    const match = /^([^.=]+)\.alias=(.+)$/.exec(field);
    return match?.[1] !== undefined && match[2] !== undefined ? [[match[2], moduleName(match[1])]] : [];
  });
}

/** Whether an alias with the wildcards * and ? matches `name`, where - and _ are the same. */
function matchesAlias(pattern: string, name: string): boolean {
  const literal = moduleName(pattern);
  const wanted = moduleName(name);
  if (!/[*?]/.test(literal)) return literal === wanted;
  const expression = literal
    .replace(/[.+^${}()|\\]/g, "\\$&")
    .replaceAll("*", ".*")
    .replaceAll("?", ".");
  return new RegExp(`^${expression}$`).test(wanted);
}
