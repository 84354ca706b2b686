/**
 * Templates: guests that were saved when they had booted, from which pods' machines go on
 * (docs/decisions/0022-templates.md). One is a directory that is named after everything that its state depends on, so that a
 * machine finds either one that fits it or none.
 */
import { createHash, randomBytes } from "node:crypto";
import {
  closeSync,
  existsSync,
  fstatSync,
  openSync,
  readFileSync,
  realpathSync,
  rmSync,
  type Stats,
  statSync,
} from "node:fs";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { SandboxError } from "../base/errors.ts";
import { type AsyncReleasable, UndoStack } from "../base/undo.ts";
import type { Config } from "../config/index.ts";
import type { PodDevices, SavedGuest } from "../hypervisor/hypervisor.ts";
import { qemuCommand } from "../hypervisor/qemu/argv.ts";
import { MAX_POD_DEVICES } from "../hypervisor/qemu/restore.ts";
import { closeFd, copyPages, memfdCreate } from "../native/index.ts";
import type { MachineConfig } from "./machine-config.ts";

/** QEMU's migration stream without the guest's memory, and that. Their directory exists only when they are whole. */
export const STATE_FILE = "state";
export const MEMORY_FILE = "memory";
/** Its TemplateBasis, as JSON. */
export const BASIS_FILE = "basis.json";
/** Entropy for a guest, in bytes: what the kernel's generator is keyed with. */
const SEED_BYTES = 32;

export function templatesDir({ factory, image }: Config): string {
  return factory.templatePath === "" ? join(image.dir, "templates") : factory.templatePath;
}

/** The machine in which the template of `base` boots. */
export function templateMachine(base: MachineConfig): MachineConfig & { readonly nics: readonly [] } {
  return { ...base, kernelParams: [...base.kernelParams, "caisson.template"], template: true, nics: [] };
}

/** What a template depends on besides the machine's make. */
export interface TemplateBasis {
  /** The host's boot: its processor may be another after it. */
  readonly bootId: string;
  /** QEMU, firmware, kernel, initrd. */
  readonly files: readonly FileIdentity[];
}

interface FileIdentity {
  readonly path: string;
  readonly inode: number;
  readonly size: number;
  readonly mtimeMs: number;
}

/** @throws when a file is missing */
export function templateBasis({ kernel, initrd, firmware }: MachineConfig, qemu: string): TemplateBasis {
  const paths = [qemu, kernel.path, initrd, ...(firmware === undefined ? [] : [firmware])];
  return { bootId: bootId(), files: paths.map((path) => identity(realpathSync(path))) };
}

/** Whether what a template depends on is as it was. */
export function holds({ bootId: boot, files }: TemplateBasis): boolean {
  const isSame = (file: FileIdentity) =>
    existsSync(file.path) && isDeepStrictEqual(identity(file.path), file);
  return boot === bootId() && files.every(isSame);
}

/** What a template of `base` is called: a digest of its basis and of QEMU's arguments. @throws when a file is missing */
export function templateKey(base: MachineConfig, qemu: string): string {
  const named = { name: "", runDir: "/", tscKhz: undefined };
  const { args } = qemuCommand({ ...templateMachine(base), ...named }, 0);
  const text = JSON.stringify([args, templateBasis(base, qemu)]);
  return createHash("sha256").update(text).digest("hex").slice(0, 32);
}

const bootId = () => readFileSync("/proc/sys/kernel/random/boot_id", "latin1").trim();

function identity(path: string): FileIdentity {
  const { ino, size, mtimeMs } = statSync(path);
  return { path, inode: ino, size, mtimeMs };
}

/** The descriptors are the caller's until it is disposed. */
export interface OpenTemplate extends AsyncReleasable {
  readonly saved: SavedGuest;
  readonly memoryFd: number;
}

/** A template that was seen in the directory `path`. */
export interface FoundTemplate {
  readonly path: string;
  /** Tells it from another that is made there later. */
  readonly id: string;
}

/** The template of machines of the make of `base`; undefined where there is none, or none is wanted. */
export function findTemplate(config: Config, base: MachineConfig, qemu: string): FoundTemplate | undefined {
  if (!config.factory.enableTemplate) return undefined;
  return templateAt(join(templatesDir(config), templateKey(base, qemu)));
}

/** The template in the directory `path`; undefined where there is none. */
export function templateAt(path: string): FoundTemplate | undefined {
  const memory = statSync(join(path, MEMORY_FILE), { throwIfNoEntry: false });
  return memory && { path, id: idOf(memory) };
}

const idOf = ({ ino, mtimeMs }: Stats) => `${ino} ${mtimeMs}`;

/** Whether machines of a make can go on from a template at all. Huge pages cannot be filled as a file is. */
export const fitsTemplate = ({ hugepages }: MachineConfig): boolean => hugepages !== true;

/** Whether the port of a pod's devices has room for these. */
export const fitPort = ({ sharedFs = [], nics }: PodDevices): boolean =>
  sharedFs.length + nics.length + 1 <= MAX_POD_DEVICES;

/** An empty file in memory for a guest; the caller closes it. */
export function guestMemory(): number {
  return memfdCreate("caisson-guest");
}

/** Opens a template and begins to copy its memory. @throws when it is not whole, ERR_STATE when it is another by now */
export async function openTemplate({ path, id }: FoundTemplate): Promise<OpenTemplate> {
  await using undo = new UndoStack();
  const state = undo.adopt("template's state", openSync(join(path, STATE_FILE), "r"), closeSync);
  const content = undo.adopt("template's memory", openSync(join(path, MEMORY_FILE), "r"), closeSync);
  if (idOf(fstatSync(content)) !== id) throw new SandboxError("ERR_STATE", "the template was made anew");
  const memory = undo.adopt("guest memory", guestMemory(), closeFd);
  const filled = copyPages(content, memory);
  filled.catch(() => undefined);
  const owned = undo.move();
  const saved = { stateFd: state, filled };
  return { saved, memoryFd: memory, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

/** Takes a template away, unless it is another by now. Machines that read it are not disturbed. */
export function discardTemplate({ path, id }: FoundTemplate): void {
  if (templateAt(path)?.id === id) rmSync(path, { recursive: true, force: true });
}

/** The line that a guest reads when it goes on (docs/protocol.md, "Template"): short, for it goes byte by byte. */
export function orders(helloPort: number): string {
  return `${helloPort} ${randomBytes(SEED_BYTES).toString("base64")}`;
}
