/** Made-up kernels, modules and agents: real formats, next to no content. */
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { gzipSync } from "node:zlib";
import type { KernelPlaces } from "../../../osbuilder/find-kernel.ts";

interface FixtureElf {
  readonly machine?: number;
  readonly segments?: readonly { readonly type: number; readonly data: Uint8Array }[];
  readonly sections?: readonly { readonly name: string; readonly data: Uint8Array }[];
}

/** A 64-bit little-endian ELF file of header, segments, sections and both tables. */
export function makeElf({ machine = 62, segments = [], sections = [] }: FixtureElf): Buffer {
  const named = [{ name: "", data: Buffer.alloc(0) }, ...sections];
  const names = Buffer.from(
    [...named.map((section) => section.name), ".shstrtab"].map((n) => `${n}\0`).join(""),
  );
  const all = [...named, { name: ".shstrtab", data: names }];
  let at = 64;
  const place = (data: Uint8Array) => {
    const offset = at;
    at += data.length;
    return offset;
  };
  const segmentAt = segments.map((segment) => place(segment.data));
  const sectionAt = all.map((section) => place(section.data));
  const header = Buffer.alloc(64);
  header.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  header.writeUInt16LE(machine, 18);
  header.writeBigUInt64LE(BigInt(at), 32);
  header.writeBigUInt64LE(BigInt(at + 56 * segments.length), 40);
  header.writeUInt16LE(56, 54);
  header.writeUInt16LE(segments.length, 56);
  header.writeUInt16LE(64, 58);
  header.writeUInt16LE(all.length, 60);
  header.writeUInt16LE(all.length - 1, 62);
  const programTable = segments.map((segment, i) => {
    const entry = Buffer.alloc(56);
    entry.writeUInt32LE(segment.type);
    entry.writeBigUInt64LE(BigInt(segmentAt[i] ?? 0), 8);
    entry.writeBigUInt64LE(BigInt(segment.data.length), 32);
    return entry;
  });
  const sectionTable = all.map((section, i) => {
    const entry = Buffer.alloc(64);
    entry.writeUInt32LE(names.indexOf(`${section.name}\0`));
    entry.writeUInt32LE(1, 4);
    entry.writeBigUInt64LE(BigInt(sectionAt[i] ?? 0), 24);
    entry.writeBigUInt64LE(BigInt(section.data.length), 32);
    return entry;
  });
  const body = [...segments.map((s) => s.data), ...all.map((s) => s.data)];
  return Buffer.concat([header, ...body, ...programTable, ...sectionTable]);
}

/** A kernel module that says `fields` about itself. */
export function makeModule(fields: readonly string[], release = "6.1.0-test"): Buffer {
  const all = [...fields, `vermagic=${release} SMP preempt mod_unload modversions `];
  return makeElf({ sections: [{ name: ".modinfo", data: Buffer.from(all.map((f) => `${f}\0`).join("")) }] });
}

/** An ELF kernel, with the PVH note unless told otherwise. */
export function makeVmlinux({ pvh = true, release = "6.1.0-test" } = {}): Buffer {
  const note = Buffer.alloc(12 + 4 + 4);
  note.writeUInt32LE(4, 0);
  note.writeUInt32LE(4, 4);
  note.writeUInt32LE(18, 8);
  note.write("Xen\0", 12, "latin1");
  const banner = Buffer.from(`Linux version ${release} (somebody@somewhere) #1\0`);
  return makeElf({
    segments: [{ type: 1, data: banner }, ...(pvh ? [{ type: 4, data: note }] : [])],
  });
}

/** A bzImage around `payload` as it stands in the file (compressed, with its size suffix where it has one). */
export function makeBzImage(payload: Uint8Array, release = "6.1.0-test"): Buffer {
  const setupSectors = 2;
  const setup = Buffer.alloc((setupSectors + 1) * 512);
  setup.writeUInt8(setupSectors, 0x1f1);
  setup.write("HdrS", 0x202, "latin1");
  setup.writeUInt16LE(0x020f, 0x206);
  setup.writeUInt16LE(0x300, 0x20e);
  setup.write(`${release} (somebody@somewhere) #1 SMP\0`, 0x300 + 512, "latin1");
  const loader = Buffer.alloc(96, 0x90);
  setup.writeUInt32LE(loader.length, 0x248);
  setup.writeUInt32LE(payload.length, 0x24c);
  return Buffer.concat([setup, loader, payload, Buffer.alloc(40, 0xcc)]);
}

/** The payload's size suffix. */
export function sizeSuffix(bytes: number): Buffer {
  const suffix = Buffer.alloc(4);
  suffix.writeUInt32LE(bytes);
  return suffix;
}

/** A static x86-64 program that carries an agent's version marker. */
export function makeAgent(version = "1.2.3"): Buffer {
  return makeElf({ segments: [{ type: 1, data: Buffer.from(`\0caisson-agent/${version}\0`) }] });
}

/** Makes a directory that is removed with the test. */
export async function temporaryDirectory(test: { after(run: () => Promise<void>): void }): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), "caisson-osbuilder-test-"));
  test.after(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

/** Writes files (path relative to `root` to content), making directories. */
export async function writeTree(
  root: string,
  files: Readonly<Record<string, string | Uint8Array>>,
): Promise<void> {
  for (const [path, content] of Object.entries(files)) {
    await mkdir(dirname(join(root, path)), { recursive: true });
    await writeFile(join(root, path), content);
  }
}

export const goodConfig = [
  "BLK_DEV_INITRD",
  "DEVTMPFS",
  "TMPFS",
  "UTS_NS",
  "IPC_NS",
  "PID_NS",
  "CGROUPS",
  "SECCOMP_FILTER",
]
  .map((name) => `CONFIG_${name}=y\n`)
  .join("");

/** The modules of a kernel that has everything, as modules with their dependencies. */
export const goodModules: Readonly<Record<string, readonly string[]>> = {
  virtio_ring: ["depends="],
  virtio: ["depends=virtio_ring"],
  virtio_pci: ["depends=virtio,virtio_ring"],
  vsock: ["depends="],
  vmw_vsock_virtio_transport: ["depends=vsock,virtio"],
  fuse: ["depends="],
  virtiofs: ["depends=fuse,virtio"],
  virtio_net: ["depends=virtio"],
  virtio_blk: ["depends=virtio", "alias=virtio:d00000002v*"],
  virtio_console: ["depends=virtio"],
  "virtio-rng": ["depends=virtio"],
  virtio_balloon: ["depends=virtio"],
  virtio_mem: ["depends=virtio"],
  overlay: ["depends=", "alias=fs-overlay"],
};

/** A host with one installed kernel; returns its places. */
export async function makeHost(
  root: string,
  { release = "6.1.0-test", modules = goodModules, config = goodConfig } = {},
): Promise<KernelPlaces> {
  const base = `lib/modules/${release}`;
  const files: Record<string, string | Uint8Array> = {
    [`${base}/modules.order`]: Object.keys(modules)
      .map((name) => `kernel/${name}.ko\n`)
      .join(""),
    [`${base}/modules.builtin`]: "kernel/fs/ext4/ext4.ko\n",
    [`boot/config-${release}`]: config,
    [`boot/vmlinuz-${release}`]: makeBzImage(gzipSync(makeVmlinux({ release })), release),
  };
  for (const [name, fields] of Object.entries(modules)) {
    files[`${base}/kernel/${name}.ko`] = makeModule(fields, release);
  }
  await writeTree(root, files);
  return { runningRelease: release, modulesRoot: join(root, "lib/modules"), bootDir: join(root, "boot") };
}

export interface ArchiveEntry {
  readonly mode: number;
  readonly mtime: number;
  readonly rdev: readonly [major: number, minor: number];
  readonly data: Buffer;
}

/** Reads a newc archive, independently of the writer. */
export function readArchive(archive: Uint8Array): Map<string, ArchiveEntry> {
  const bytes = Buffer.from(archive.buffer, archive.byteOffset, archive.byteLength);
  const entries = new Map<string, ArchiveEntry>();
  for (let at = 0; ; ) {
    if (bytes.toString("latin1", at, at + 6) !== "070701") throw new Error(`no header at ${at}`);
    const field = (index: number) =>
      Number.parseInt(bytes.toString("latin1", at + 6 + index * 8, at + 14 + index * 8), 16);
    const nameEnd = at + 110 + field(11);
    const name = bytes.toString("utf8", at + 110, nameEnd - 1);
    const dataAt = (nameEnd + 3) & ~3;
    const data = bytes.subarray(dataAt, dataAt + field(6));
    if (name === "TRAILER!!!") return entries;
    entries.set(`/${name}`, { mode: field(1), mtime: field(5), rdev: [field(9), field(10)], data });
    at = (dataAt + field(6) + 3) & ~3;
  }
}
