/**
 * The directory of guest images:
 *
 *     <image dir>/caisson-initrd.img   -> osbuilder-images/<release>/caisson-initrd.img
 *     <image dir>/vmlinuz.container    -> osbuilder-images/<release>/vmlinux (or vmlinuz, when only that can boot)
 *     <image dir>/osbuilder-images/<release>/{caisson-initrd.img,vmlinux,vmlinuz,image.json}
 *     <image dir>/osbuilder-images/.lock
 *     <image dir>/osbuilder-images/.new-*      a build under way; what an interrupted run left goes with the next one
 *
 * Files are written beside their place, synced and renamed, so a reader sees the old or the new one, never a part.
 */
import { createHash, randomBytes } from "node:crypto";
import { createReadStream } from "node:fs";
import {
  mkdir,
  open,
  readdir,
  readFile,
  readlink,
  realpath,
  rename,
  rm,
  stat,
  symlink,
} from "node:fs/promises";
import { basename, join, relative, resolve } from "node:path";
import { errnoOf, SandboxError } from "../src/base/errors.ts";
import type { AsyncReleasable } from "../src/base/undo.ts";
import { takeLock } from "./lock.ts";
import {
  formatManifest,
  type ImageContent,
  type ImageFileName,
  type ImageManifest,
  imageFileNames,
  parseManifest,
} from "./manifest.ts";

export const DEFAULT_IMAGE_DIR = "/var/cache/caisson";
const MANIFEST = "image.json";
const NEW_PREFIX = ".new-";
const INITRD_LINK = "caisson-initrd.img";
const KERNEL_LINK = "vmlinuz.container";

/** The files of an image by name. */
export type ImageFiles = ReadonlyMap<ImageFileName, Uint8Array>;

/** An image as it lies in the store. */
export interface StoredImage {
  readonly release: string;
  readonly directory: string;
  /** Undefined when the manifest is missing or damaged; `problem` then says so. */
  readonly manifest: ImageManifest | undefined;
  readonly problem: string | undefined;
  /** Whether the links in the image directory lead here. */
  readonly current: boolean;
  /** When it was built, milliseconds since 1970. */
  readonly builtAt: number;
}

export class ImageStore {
  readonly imageDir: string;
  readonly imagesDir: string;

  constructor(imageDir: string) {
    this.imageDir = resolve(imageDir);
    this.imagesDir = join(this.imageDir, "osbuilder-images");
  }

  /** The directory of the image for kernel `release`. */
  directory(release: string): string {
    return join(this.imagesDir, release);
  }

  /**
   * Makes the directories, waits until no other osbuilder works on them and removes what interrupted runs left.
   * @returns the lock, to be disposed.
   * @throws SandboxError ERR_PERMISSION, ERR_HOST, ERR_STATE or ERR_CANCELED.
   */
  async lock(onWait: () => void, signal?: AbortSignal): Promise<AsyncReleasable> {
    await this.#guard(`cannot make ${this.imagesDir}`, () =>
      mkdir(this.imagesDir, { recursive: true, mode: 0o755 }),
    );
    const lock = await takeLock(join(this.imagesDir, ".lock"), onWait, signal);
    for (const name of await readdir(this.imagesDir)) {
      if (name.startsWith(NEW_PREFIX)) await rm(join(this.imagesDir, name), { recursive: true, force: true });
    }
    return lock;
  }

  /**
   * Puts an image into its place; a reader that opens its files meanwhile gets whole ones.
   * Preconditions: the lock is held.
   */
  async publish(content: ImageContent, files: ImageFiles): Promise<ImageManifest> {
    const release = content.kernel.release;
    const manifest = describe(content, files);
    const target = this.directory(release);
    await this.#guard(`cannot write the image ${target}`, async () => {
      const work = join(this.imagesDir, `${NEW_PREFIX}${process.pid}-${randomBytes(4).toString("hex")}`);
      await mkdir(work, { mode: 0o755 });
      try {
        for (const [name, bytes] of files) await writeSynced(join(work, name), bytes);
        await writeSynced(join(work, MANIFEST), Buffer.from(formatManifest(manifest)));
        await moveInto(work, target, files);
      } finally {
        await rm(work, { recursive: true, force: true });
      }
      await syncDirectory(this.imagesDir);
    });
    return manifest;
  }

  /** Points the links at the image of `release`; each is switched in one step. Preconditions: the lock is held. */
  async link(release: string, manifest: ImageManifest): Promise<void> {
    const directory = this.directory(release);
    const kernel = manifest.files.vmlinux === undefined ? "vmlinuz" : "vmlinux";
    await this.#guard(`cannot switch the links in ${this.imageDir}`, async () => {
      await switchLink(join(this.imageDir, KERNEL_LINK), relative(this.imageDir, join(directory, kernel)));
      await switchLink(
        join(this.imageDir, INITRD_LINK),
        relative(this.imageDir, join(directory, INITRD_LINK)),
      );
      await syncDirectory(this.imageDir);
    });
  }

  /** Whether both links lead to the image of `release`. */
  async isLinked(release: string): Promise<boolean> {
    const directory = await realpath(this.directory(release)).catch(() => undefined);
    const targets = await Promise.all(
      [KERNEL_LINK, INITRD_LINK].map((name) => realpath(join(this.imageDir, name)).catch(() => undefined)),
    );
    return directory !== undefined && targets.every((target) => target?.startsWith(`${directory}/`) === true);
  }

  /** The image of kernel `release`, or undefined when there is none. */
  async read(release: string): Promise<StoredImage | undefined> {
    const directory = this.directory(release);
    const found = await stat(directory).catch(() => undefined);
    if (found?.isDirectory() !== true) return undefined;
    const path = join(directory, MANIFEST);
    let manifest: ImageManifest | undefined;
    let problem: string | undefined;
    let builtAt = found.mtimeMs;
    try {
      manifest = parseManifest(await readFile(path, "utf8"), path);
      builtAt = (await stat(path)).mtimeMs;
    } catch (error) {
      problem = errnoOf(error) === "ENOENT" ? `${path} is missing` : (error as Error).message;
    }
    return { release, directory, manifest, problem, current: await this.isLinked(release), builtAt };
  }

  /** Every image, the newest build first. */
  async list(): Promise<StoredImage[]> {
    const names = await readdir(this.imagesDir).catch((error: unknown) => {
      if (errnoOf(error) === "ENOENT") return [];
      throw error;
    });
    const images: StoredImage[] = [];
    for (const name of names) {
      const image = name.startsWith(".") ? undefined : await this.read(name);
      if (image !== undefined) images.push(image);
    }
    return images.sort((a, b) => b.builtAt - a.builtAt || (a.release < b.release ? 1 : -1));
  }

  /** What is wrong with the files of an image against its manifest; undefined when all of them match. */
  async damage(release: string, manifest: ImageManifest): Promise<string | undefined> {
    for (const name of imageFileNames) {
      const expected = manifest.files[name];
      if (expected === undefined) continue;
      const path = join(this.directory(release), name);
      const found = await hashFile(path).catch(() => undefined);
      if (found === undefined) return `${path} is missing`;
      if (found.sha256 !== expected.sha256) return `${path} was changed or is damaged`;
    }
    return undefined;
  }

  /** Removes the image of `release`. Preconditions: the lock is held and no link leads to it. */
  async remove(release: string): Promise<void> {
    const directory = this.directory(release);
    const gone = join(this.imagesDir, `${NEW_PREFIX}${process.pid}-${randomBytes(4).toString("hex")}`);
    await this.#guard(`cannot remove the image ${directory}`, async () => {
      await rename(directory, gone); // in one step, so that nobody finds a part of it
      await rm(gone, { recursive: true, force: true });
    });
  }

  async #guard<T>(what: string, work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (cause) {
      const errno = errnoOf(cause);
      if (errno === "EACCES" || errno === "EPERM" || errno === "EROFS") {
        throw new SandboxError(
          "ERR_PERMISSION",
          `${what}: run as root, or choose another place with --image-dir`,
          {
            cause,
          },
        );
      }
      if (errno === "ENOSPC" || errno === "EDQUOT") {
        throw new SandboxError(
          "ERR_EXHAUSTED",
          `${what}: the disk is full; osbuilder prune removes old images`,
          { cause },
        );
      }
      throw new SandboxError("ERR_HOST", what, { cause });
    }
  }
}

/** Hash and size of bytes, as a manifest has them. */
export function fingerprint(bytes: Uint8Array): { sha256: string; bytes: number } {
  return { sha256: createHash("sha256").update(bytes).digest("hex"), bytes: bytes.length };
}

function describe(content: ImageContent, files: ImageFiles): ImageManifest {
  const initrd = files.get("caisson-initrd.img");
  if (initrd === undefined)
    throw new SandboxError("ERR_INTERNAL", "an image was to be stored without an initrd");
  const vmlinux = files.get("vmlinux");
  const vmlinuz = files.get("vmlinuz");
  return {
    ...content,
    files: {
      "caisson-initrd.img": fingerprint(initrd),
      ...(vmlinux === undefined ? {} : { vmlinux: fingerprint(vmlinux) }),
      ...(vmlinuz === undefined ? {} : { vmlinuz: fingerprint(vmlinuz) }),
    },
  };
}

async function hashFile(path: string): Promise<{ sha256: string }> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(chunk as Buffer);
  return { sha256: hash.digest("hex") };
}

/** A first image is moved in whole; an existing one is replaced file by file, the manifest last. */
async function moveInto(work: string, target: string, files: ImageFiles): Promise<void> {
  await syncDirectory(work);
  try {
    await rename(work, target);
    return;
  } catch (error) {
    const errno = errnoOf(error);
    if (errno !== "ENOTEMPTY" && errno !== "EEXIST") throw error;
  }
  for (const name of [...files.keys(), MANIFEST]) await rename(join(work, name), join(target, name));
  for (const name of await readdir(target)) {
    const wanted = name === MANIFEST || files.has(name as ImageFileName);
    if (!wanted) await rm(join(target, name), { recursive: true, force: true });
  }
  await syncDirectory(target);
}

async function writeSynced(path: string, bytes: Uint8Array): Promise<void> {
  const handle = await open(path, "wx", 0o644);
  try {
    await handle.writeFile(bytes);
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function syncDirectory(path: string): Promise<void> {
  const handle = await open(path, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function switchLink(path: string, target: string): Promise<void> {
  if ((await readlink(path).catch(() => undefined)) === target) return;
  const temporary = join(path, "..", `${NEW_PREFIX}${basename(path)}`);
  await rm(temporary, { force: true });
  await symlink(target, temporary);
  await rename(temporary, path);
}
