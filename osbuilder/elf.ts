/**
 * Just enough of ELF (System V gABI, chapters 4 and 5; x86-64 psABI) to read kernels, kernel modules and the agent:
 * 64-bit little-endian files only.
 */
import { SandboxError } from "../src/base/errors.ts";

/** e_machine of x86-64 (include/uapi/linux/elf-em.h). */
export const EM_X86_64 = 62;
/** Type of the Xen note that gives the PVH entry point (include/xen/interface/elfnote.h); QEMU looks for it. */
const XEN_ELFNOTE_PHYS32_ENTRY = 18;
const PT_INTERP = 3;
const PT_NOTE = 4;
const SHT_NOBITS = 8;
const EHDR_BYTES = 64;

interface Segment {
  readonly type: number;
  readonly offset: number;
  readonly fileBytes: number;
}
interface Section {
  readonly name: string;
  readonly type: number;
  readonly offset: number;
  readonly bytes: number;
}

/** A parsed file; `bytes` is not copied. */
export interface Elf {
  readonly bytes: Buffer;
  readonly machine: number;
  readonly segments: readonly Segment[];
  readonly sections: readonly Section[];
  /** Bytes from the start to the end of the last header table, segment or section: what follows is no part of it. */
  readonly extent: number;
}

/** Whether the bytes begin with the ELF magic number. */
export function isElf(bytes: Uint8Array): boolean {
  return bytes[0] === 0x7f && bytes[1] === 0x45 && bytes[2] === 0x4c && bytes[3] === 0x46;
}

/**
 * Reads the header and the tables.
 * @param what names the file in errors.
 * @throws SandboxError ERR_INVALID_ARGUMENT when it is no 64-bit little-endian ELF file or is cut short.
 */
export function parseElf(input: Uint8Array, what: string): Elf {
  const bytes = Buffer.from(input.buffer, input.byteOffset, input.byteLength);
  // e_ident: EI_CLASS at 4 (2 = 64-bit), EI_DATA at 5 (1 = little-endian).
  if (!isElf(bytes) || bytes.length < EHDR_BYTES || bytes[4] !== 2 || bytes[5] !== 1) {
    throw new SandboxError("ERR_INVALID_ARGUMENT", `${what} is not a 64-bit little-endian ELF file`);
  }
  try {
    const segments = readSegments(bytes);
    const sections = readSections(bytes);
    const extent = extentOf(bytes, segments, sections);
    if (extent > bytes.length)
      throw new RangeError(`${extent} bytes are described, ${bytes.length} are there`);
    return { bytes, machine: bytes.readUInt16LE(18), segments, sections, extent };
  } catch (cause) {
    if (!(cause instanceof RangeError)) throw cause;
    throw new SandboxError("ERR_INVALID_ARGUMENT", `${what} is a damaged ELF file`, { cause });
  }
}

function readU64(bytes: Buffer, at: number): number {
  const value = bytes.readBigUInt64LE(at);
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw new RangeError(`offset ${value} is out of range`);
  return Number(value);
}

function readSegments(bytes: Buffer): Segment[] {
  const table = readU64(bytes, 32);
  const entryBytes = bytes.readUInt16LE(54);
  return Array.from({ length: bytes.readUInt16LE(56) }, (_, index) => {
    const at = table + index * entryBytes;
    return {
      type: bytes.readUInt32LE(at),
      offset: readU64(bytes, at + 8),
      fileBytes: readU64(bytes, at + 32),
    };
  });
}

function readSections(bytes: Buffer): Section[] {
  const table = readU64(bytes, 40);
  if (table === 0) return [];
  const entryBytes = bytes.readUInt16LE(58);
  const raw = Array.from({ length: bytes.readUInt16LE(60) }, (_, index) => {
    const at = table + index * entryBytes;
    return {
      nameAt: bytes.readUInt32LE(at),
      type: bytes.readUInt32LE(at + 4),
      offset: readU64(bytes, at + 24),
      bytes: readU64(bytes, at + 32),
    };
  });
  const names = raw[bytes.readUInt16LE(62)];
  return raw.map(({ nameAt, ...section }) => ({
    ...section,
    name: names === undefined ? "" : cString(bytes, names.offset + nameAt),
  }));
}

function cString(bytes: Buffer, at: number): string {
  const end = bytes.indexOf(0, at);
  if (at > bytes.length || end < 0) throw new RangeError("a name runs past the end of the file");
  return bytes.toString("latin1", at, end);
}

function extentOf(bytes: Buffer, segments: readonly Segment[], sections: readonly Section[]): number {
  const ends = [
    EHDR_BYTES,
    readU64(bytes, 32) + bytes.readUInt16LE(54) * bytes.readUInt16LE(56),
    readU64(bytes, 40) + bytes.readUInt16LE(58) * bytes.readUInt16LE(60),
    ...segments.map((segment) => segment.offset + segment.fileBytes),
    ...sections.filter((s) => s.type !== SHT_NOBITS).map((section) => section.offset + section.bytes),
  ];
  return Math.max(...ends);
}

/** The content of the section `name`, or undefined. */
export function sectionBytes(elf: Elf, name: string): Buffer | undefined {
  const section = elf.sections.find((candidate) => candidate.name === name);
  return section === undefined
    ? undefined
    : elf.bytes.subarray(section.offset, section.offset + section.bytes);
}

/** Whether the program asks for a dynamic loader (which an initrd does not have). */
export function isDynamicallyLinked(elf: Elf): boolean {
  return elf.segments.some((segment) => segment.type === PT_INTERP);
}

/** Whether a kernel has the PVH entry that QEMU needs to boot an uncompressed kernel. */
export function hasPvhEntry(elf: Elf): boolean {
  return elf.segments
    .filter((segment) => segment.type === PT_NOTE)
    .some((segment) => hasPvhNote(elf.bytes.subarray(segment.offset, segment.offset + segment.fileBytes)));
}

function hasPvhNote(notes: Buffer): boolean {
  // Each note: u32 name bytes, u32 descriptor bytes, u32 type, name and descriptor padded to 4 bytes.
  for (let at = 0; at + 12 <= notes.length; ) {
    const nameBytes = notes.readUInt32LE(at);
    const descriptorBytes = notes.readUInt32LE(at + 4);
    const name = notes.toString("latin1", at + 12, at + 12 + nameBytes);
    if (notes.readUInt32LE(at + 8) === XEN_ELFNOTE_PHYS32_ENTRY && name === "Xen\0") return true;
    at += 12 + align4(nameBytes) + align4(descriptorBytes);
  }
  return false;
}

function align4(bytes: number): number {
  return (bytes + 3) & ~3;
}
