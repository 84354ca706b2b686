/**
 * Reads an x86 kernel image, the "bzImage": real-mode setup sectors with a header, then the protected-mode code,
 * which holds the kernel proper as a compressed ELF file. Offsets and meanings are those of
 * Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header".
 *
 * QEMU boots the ELF file directly (PVH), which saves the guest from unpacking it: with a kernel packed in zstd that
 * is about a third of the whole boot.
 */
import { SandboxError } from "../src/base/errors.ts";
import { decompress, detectFormat } from "./compression.ts";
import { EM_X86_64, hasPvhEntry, isElf, parseElf } from "./elf.ts";

const SETUP_SECTS = 0x1f1;
const HEADER_MAGIC_AT = 0x202;
const HEADER_MAGIC = "HdrS";
const PROTOCOL_VERSION = 0x206;
const KERNEL_VERSION = 0x20e;
const PAYLOAD_OFFSET = 0x248;
const PAYLOAD_LENGTH = 0x24c;
const HEADER_END = 0x250;
const SECTOR_BYTES = 512;
/** payload_offset and payload_length exist since this version of the boot protocol. */
const PROTOCOL_WITH_PAYLOAD = 0x0208;
/** The build appends the uncompressed size, a little-endian u32, to the payload (scripts/Makefile.lib, size_append). */
const SIZE_SUFFIX_BYTES = 4;

/** A kernel image of either kind. */
export type KernelImage =
  | { readonly kind: "bzImage"; readonly bytes: Buffer; readonly release: string; readonly path: string }
  | {
      readonly kind: "elf";
      readonly bytes: Buffer;
      readonly release: string | undefined;
      readonly path: string;
    };

/**
 * Recognises a kernel image and reads its release ("6.1.0-56-cloud-amd64").
 * @throws SandboxError ERR_INVALID_ARGUMENT when `bytes` are neither a bzImage nor an x86-64 ELF kernel.
 */
export function readKernelImage(path: string, bytes: Buffer): KernelImage {
  if (isElf(bytes)) {
    if (parseElf(bytes, path).machine !== EM_X86_64) throw notAKernel(path, "it is ELF, but not for x86-64");
    return { kind: "elf", bytes, release: releaseInElf(bytes), path };
  }
  if (
    bytes.length < HEADER_END ||
    bytes.toString("latin1", HEADER_MAGIC_AT, HEADER_MAGIC_AT + 4) !== HEADER_MAGIC
  ) {
    throw notAKernel(path, "it has no setup header");
  }
  const versionAt = bytes.readUInt16LE(KERNEL_VERSION) + SECTOR_BYTES;
  const text = bytes.toString("latin1", versionAt, versionAt + 256);
  const release = /^[^\s\0]+/.exec(text)?.[0];
  if (release === undefined) throw notAKernel(path, "its setup header names no version");
  return { kind: "bzImage", bytes, release, path };
}

function notAKernel(path: string, why: string): SandboxError {
  return new SandboxError(
    "ERR_INVALID_ARGUMENT",
    `${path} is not a kernel image that osbuilder can use: ${why}; give a bzImage (vmlinuz) or an ELF vmlinux`,
  );
}

/** The release in the banner ("Linux version …", init/version.c) that every kernel carries. */
function releaseInElf(bytes: Buffer): string | undefined {
  const banner = "Linux version ";
  for (let at = bytes.indexOf(banner); at >= 0; at = bytes.indexOf(banner, at + 1)) {
    const release = /^(\d\S*) \(/.exec(
      bytes.toString("latin1", at + banner.length, at + banner.length + 128),
    )?.[1];
    if (release !== undefined) return release;
  }
  return undefined;
}

/**
 * The ELF kernel inside an image, cut to its real length (the build appends relocations, which only the image's own
 * unpacker uses).
 * @throws SandboxError ERR_INVALID_ARGUMENT or ERR_UNSUPPORTED when there is none, it is damaged, or it lacks the PVH
 * entry (CONFIG_PVH) that QEMU needs to boot it; ERR_HOST when a program to decompress it is missing.
 */
export async function extractVmlinux(image: KernelImage, signal?: AbortSignal): Promise<Buffer> {
  const bytes = image.kind === "elf" ? image.bytes : await decompressPayload(image.bytes, image.path, signal);
  const elf = parseElf(bytes, `the kernel in ${image.path}`);
  if (!hasPvhEntry(elf)) {
    throw new SandboxError(
      "ERR_UNSUPPORTED",
      `the kernel in ${image.path} has no PVH entry point (CONFIG_PVH)`,
    );
  }
  return elf.bytes.subarray(0, elf.extent);
}

async function decompressPayload(image: Buffer, path: string, signal?: AbortSignal): Promise<Uint8Array> {
  const version = image.readUInt16LE(PROTOCOL_VERSION);
  if (version < PROTOCOL_WITH_PAYLOAD) {
    throw new SandboxError(
      "ERR_UNSUPPORTED",
      `${path} speaks boot protocol ${(version >> 8).toString()}.${(version & 0xff).toString().padStart(2, "0")}, which does not tell where the kernel is`,
    );
  }
  const setupSectors = image.readUInt8(SETUP_SECTS) || 4; // 0 means 4, for old images
  const start = (setupSectors + 1) * SECTOR_BYTES + image.readUInt32LE(PAYLOAD_OFFSET);
  const end = start + image.readUInt32LE(PAYLOAD_LENGTH);
  if (end > image.length || end - start <= SIZE_SUFFIX_BYTES) {
    throw new SandboxError("ERR_INVALID_ARGUMENT", `${path} is cut short: its payload ends at byte ${end}`);
  }
  const payload = image.subarray(start, end);
  const format = detectFormat(payload);
  if (format === undefined) return payload;
  const size = payload.readUInt32LE(payload.length - SIZE_SUFFIX_BYTES);
  // gzip carries the size itself, in the same place; the others have it appended.
  const body = format === "gzip" ? payload : payload.subarray(0, payload.length - SIZE_SUFFIX_BYTES);
  const kernel = await decompress(format, body, `the kernel in ${path}`, signal);
  if (kernel.length !== size) {
    throw new SandboxError(
      "ERR_INVALID_ARGUMENT",
      `the kernel in ${path} is damaged: ${kernel.length} bytes came out where ${size} were announced`,
    );
  }
  return kernel;
}
