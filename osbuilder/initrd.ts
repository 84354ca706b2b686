/** Puts an initrd together: the agent as /init, directories, modules, their list, the manifest and extra files. */
import { SandboxError } from "../src/base/errors.ts";
import { type CpioEntry, cpioArchive } from "./cpio.ts";
import { EM_X86_64, isDynamicallyLinked, isElf, parseElf } from "./elf.ts";
import { formatManifest, type ImageContent } from "./manifest.ts";
import type { PlannedModule } from "./module-set.ts";

/** A file to put into the image besides the standard content. */
export interface ExtraFile {
  /** Absolute path in the image. */
  readonly path: string;
  /** Permission bits. */
  readonly mode: number;
  readonly data: Uint8Array;
}

export interface InitrdParts {
  readonly content: ImageContent;
  readonly agent: Uint8Array;
  readonly modules: readonly PlannedModule[];
  readonly extraFiles: readonly ExtraFile[];
}

/** Bytes of the uncompressed initrd by part, headers and padding in `other`. */
export interface InitrdSizes {
  readonly agent: number;
  readonly modules: number;
  readonly extraFiles: number;
  readonly other: number;
}

/** Mount points and the like; the agent mounts what belongs there. */
const directories = ["/dev", "/etc", "/proc", "/run", "/sys", "/tmp"];
/** Major and minor number of the console (Documentation/admin-guide/devices.txt); the kernel opens it for /init. */
const CONSOLE = { major: 5, minor: 1 };

/** Where module `name` lies in the image of kernel `release`. */
export function moduleImagePath(release: string, name: string): string {
  return `/lib/modules/${release}/${name}.ko`;
}

/** The uncompressed archive and its sizes. @throws SandboxError ERR_INVALID_ARGUMENT when two things want one path. */
export function buildInitrd(parts: InitrdParts): { archive: Uint8Array; sizes: InitrdSizes } {
  const { content, modules } = parts;
  const release = content.kernel.release;
  const unique = [...new Set(modules.map((line) => line.module))];
  const list = modules.map((line) => `${line.when} ${moduleImagePath(release, line.module.name)}\n`).join("");
  const entries: CpioEntry[] = [
    ...directories.map(
      (path): CpioEntry => ({ kind: "directory", path, mode: path === "/tmp" ? 0o1777 : 0o755 }),
    ),
    { kind: "character-device", path: "/dev/console", mode: 0o600, ...CONSOLE },
    file("/init", parts.agent, 0o755),
    file("/etc/caisson/modules", Buffer.from(list), 0o644),
    file("/etc/caisson/image.json", Buffer.from(formatManifest(content)), 0o644),
    ...unique.map((module) => file(moduleImagePath(release, module.name), module.bytes, 0o644)),
    ...parts.extraFiles.map((extra) => file(extra.path, extra.data, extra.mode)),
  ];
  const archive = cpioArchive(withParents(entries), content.sourceDateEpoch);
  const sizes = {
    agent: parts.agent.length,
    modules: sum(unique.map((module) => module.bytes.length)),
    extraFiles: sum(parts.extraFiles.map((extra) => extra.data.length)),
  };
  return { archive, sizes: { ...sizes, other: archive.length - sum(Object.values(sizes)) } };
}

function file(path: string, data: Uint8Array, mode: number): CpioEntry {
  return { kind: "file", path, data, mode };
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, one) => total + one, 0);
}

/** The entries sorted by path, so that a directory precedes its content, with missing directories added. */
function withParents(entries: readonly CpioEntry[]): CpioEntry[] {
  const given = new Map(entries.map((entry) => [entry.path, entry]));
  const added = new Map<string, CpioEntry>();
  for (const entry of entries) {
    for (let at = entry.path.lastIndexOf("/"); at > 0; at = entry.path.lastIndexOf("/", at - 1)) {
      const path = entry.path.slice(0, at);
      const parent = given.get(path);
      if (parent !== undefined && parent.kind !== "directory") {
        throw new SandboxError(
          "ERR_INVALID_ARGUMENT",
          `${entry.path} cannot be in the image: ${path} is a file`,
        );
      }
      if (parent === undefined) added.set(path, { kind: "directory", path, mode: 0o755 });
    }
  }
  return [...entries, ...added.values()].sort((a, b) =>
    Buffer.compare(Buffer.from(a.path), Buffer.from(b.path)),
  );
}

/**
 * Checks that the agent can be PID 1 of an initrd, which holds no shared libraries.
 * @throws SandboxError ERR_INVALID_ARGUMENT naming the file and what is wrong with it.
 */
export function checkAgent(agent: Uint8Array, path: string): void {
  if (!isElf(agent)) throw unfit(path, "it is not an ELF program");
  const elf = parseElf(agent, `the agent ${path}`);
  if (elf.machine !== EM_X86_64) throw unfit(path, "it is not for x86-64");
  if (isDynamicallyLinked(elf))
    throw unfit(path, "it is dynamically linked, and an initrd holds no libraries");
}

function unfit(path: string, why: string): SandboxError {
  return new SandboxError(
    "ERR_INVALID_ARGUMENT",
    `${path} cannot be the guest agent: ${why}; npm run build makes a static one (dist/guest/agent)`,
  );
}

/** The version in the marker "caisson-agent/1.2.3" that the agent carries; null when it carries none. */
export function agentVersion(agent: Uint8Array): string | null {
  const bytes = Buffer.from(agent.buffer, agent.byteOffset, agent.byteLength);
  const marker = "caisson-agent/";
  for (let at = bytes.indexOf(marker); at >= 0; at = bytes.indexOf(marker, at + 1)) {
    const text = bytes.toString("latin1", at + marker.length, at + marker.length + 64);
    const version = /^\d+\.\d+\.\d+(?:-[0-9A-Za-z.-]+)?/.exec(text)?.[0];
    if (version !== undefined) return version;
  }
  return null;
}
