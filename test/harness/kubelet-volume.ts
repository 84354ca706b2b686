/** Volumes as the kubelet prepares them on the node, in the places and in the way it does. */
import { chmodSync, mkdirSync, readlinkSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { runOk } from "./run.ts";
import type { World } from "./world.ts";

/** Directory of a pod below the kubelet's root. */
export class KubeletPod {
  readonly directory: string;
  readonly #world: World;
  readonly #mounts: string[] = [];
  #subPaths = 0;
  #versions = 0;

  constructor(world: World, directory: string) {
    this.#world = world;
    this.directory = directory;
  }

  volume(plugin: string, name: string): string {
    const path = join(this.directory, "volumes", `kubernetes.io~${plugin}`, name);
    mkdirSync(path, { recursive: true });
    return path;
  }

  /** An emptyDir of medium Memory with a size limit. */
  async memoryDir(name: string, size: string): Promise<string> {
    const path = this.volume("empty-dir", name);
    await this.#mount("-t", "tmpfs", "-o", `size=${size},mode=0777`, "tmpfs", path);
    return path;
  }

  emptyDir(name: string): string {
    const path = this.volume("empty-dir", name);
    chmodSync(path, 0o777);
    return path;
  }

  /** The node's bind mount for a subPath of a volume: a directory or a file. */
  async subPath(volume: string, name: string, subPath: string, isFile = false): Promise<string> {
    const directory = join(this.directory, "volume-subpaths", name, "container");
    mkdirSync(directory, { recursive: true });
    const path = join(directory, String(this.#subPaths++));
    if (isFile) writeFileSync(path, "");
    else mkdirSync(path);
    await this.#mount("--bind", join(volume, subPath), path);
    return path;
  }

  /** Writes a ConfigMap, Secret or projected volume, first or again: pkg/volume/util/atomic_writer.go. */
  write(path: string, files: Readonly<Record<string, string>>): void {
    const version = `..2026_01_01_00_00_00.${++this.#versions}`;
    const previous = linkOrUndefined(join(path, "..data"));
    mkdirSync(join(path, version));
    for (const [name, content] of Object.entries(files)) {
      const file = join(path, version, name);
      mkdirSync(join(file, ".."), { recursive: true });
      writeFileSync(file, content, { mode: 0o640 });
    }
    symlinkSync(version, join(path, "..data_tmp"));
    renameSync(join(path, "..data_tmp"), join(path, "..data"));
    for (const top of new Set(Object.keys(files).map((name) => name.split("/")[0] ?? ""))) {
      if (linkOrUndefined(join(path, top)) === undefined) symlinkSync(join("..data", top), join(path, top));
    }
    if (previous !== undefined) rmSync(join(path, previous), { recursive: true });
  }

  /** A mount of the world that the pod's end removes. */
  async mount(...args: readonly string[]): Promise<void> {
    await this.#mount(...args);
  }

  async remove(): Promise<void> {
    for (const path of this.#mounts.splice(0).reverse()) await runOk(this.#world.enter(["umount", path]));
    rmSync(this.directory, { recursive: true });
  }

  async #mount(...args: readonly string[]): Promise<void> {
    await runOk(this.#world.enter(["mount", ...args]));
    if (args[0] !== "--make-shared") this.#mounts.push(args.at(-1) ?? "");
  }
}

function linkOrUndefined(path: string): string | undefined {
  try {
    return readlinkSync(path);
  } catch {
    return undefined;
  }
}
