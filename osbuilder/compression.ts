/**
 * Compressed data in and out: what distributions pack kernels and modules in, and what the kernel takes as initrd.
 *
 * gzip is Node's; zstd is Node's where it has it (22.15, 23.8 and later), else the `zstd` program; xz, lzma and bzip2
 * are programs; LZ4 is our own (docs/decisions/0008-image-compression.md).
 */
import { promisify } from "node:util";
import * as zlib from "node:zlib";
import { assertNever, SandboxError } from "../src/base/errors.ts";
import { runFilter } from "./filter.ts";
import { lz4LegacyDecode, lz4LegacyEncode } from "./lz4-legacy.ts";

export type DataFormat = "gzip" | "bzip2" | "lzma" | "xz" | "lz4" | "lzo" | "zstd";

/** First bytes of each format, as Documentation/arch/x86/boot.rst lists them under "payload_offset". */
const magics: readonly (readonly [DataFormat, readonly number[]])[] = [
  ["gzip", [0x1f, 0x8b]],
  ["bzip2", [0x42, 0x5a, 0x68]],
  ["lzma", [0x5d, 0x00, 0x00]],
  ["xz", [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00]],
  ["lz4", [0x02, 0x21, 0x4c, 0x18]],
  ["lzo", [0x89, 0x4c, 0x5a, 0x4f]],
  ["zstd", [0x28, 0xb5, 0x2f, 0xfd]],
];

/** The format that the bytes begin with; undefined for plain data. */
export function detectFormat(bytes: Uint8Array): DataFormat | undefined {
  return magics.find(([, magic]) => magic.every((byte, index) => bytes[index] === byte))?.[0];
}

/**
 * The content of compressed `bytes`.
 * @param what names them in errors.
 * @throws SandboxError ERR_INVALID_ARGUMENT when they are damaged, ERR_HOST when a program is missing,
 * ERR_UNSUPPORTED for LZO.
 */
export async function decompress(
  format: DataFormat,
  bytes: Uint8Array,
  what: string,
  signal?: AbortSignal,
): Promise<Uint8Array> {
  switch (format) {
    case "gzip":
      return inProcess(format, bytes, what, promisify(zlib.gunzip));
    case "lz4":
      return inProcess(format, bytes, what, async (input) => lz4LegacyDecode(input));
    case "zstd":
      return unzstd(bytes, what, signal);
    case "xz":
    case "lzma":
      return runFilter(
        { program: "xz", args: [`--format=${format}`, "-dcq"], debianPackage: "xz-utils" },
        bytes,
        what,
        signal,
      );
    case "bzip2":
      return runFilter({ program: "bzip2", args: ["-dcq"], debianPackage: "bzip2" }, bytes, what, signal);
    case "lzo":
      throw new SandboxError(
        "ERR_UNSUPPORTED",
        `${what} is compressed with LZO, which osbuilder cannot read`,
      );
    default:
      return assertNever(format);
  }
}

type Codec = (bytes: Uint8Array) => Promise<Uint8Array>;

async function inProcess(
  format: DataFormat,
  bytes: Uint8Array,
  what: string,
  codec: Codec,
): Promise<Uint8Array> {
  try {
    return await codec(bytes);
  } catch (cause) {
    throw new SandboxError(
      "ERR_INVALID_ARGUMENT",
      `${what} is damaged: its ${format} data do not decompress`,
      {
        cause,
      },
    );
  }
}

/** Node's zstd function of that name where this Node has it; it is not in the types of Node 20. */
function nodeZstd(name: "zstdDecompress"): Codec | undefined {
  const candidate: unknown = (zlib as Record<string, unknown>)[name];
  return typeof candidate === "function" ? (promisify(candidate) as Codec) : undefined;
}

async function unzstd(bytes: Uint8Array, what: string, signal?: AbortSignal): Promise<Uint8Array> {
  const builtIn = nodeZstd("zstdDecompress");
  if (builtIn !== undefined) return inProcess("zstd", bytes, what, builtIn);
  // --long=31: the kernel is packed with a window of up to 2 GB (`zstd --ultra -22`), above the program's default.
  const args = ["-dcq", "--long=31"];
  return runFilter({ program: "zstd", args, debianPackage: "zstd" }, bytes, what, signal);
}

/** How an initrd is compressed. */
export type InitrdCompression = "none" | "gzip" | "zstd" | "lz4";
export const initrdCompressions: readonly InitrdCompression[] = ["none", "gzip", "zstd", "lz4"];

/** The kernel's configuration symbol that lets it unpack such an initrd (usr/Kconfig). */
export const initrdConfigSymbol: Readonly<Record<Exclude<InitrdCompression, "none">, string>> = {
  gzip: "CONFIG_RD_GZIP",
  zstd: "CONFIG_RD_ZSTD",
  lz4: "CONFIG_RD_LZ4",
};

/** `bytes` as an initrd in `format`. The same bytes give the same result as long as zlib and zstd stay the same. */
export async function compressInitrd(
  format: InitrdCompression,
  bytes: Uint8Array,
  signal?: AbortSignal,
): Promise<Uint8Array> {
  switch (format) {
    case "none":
      return bytes;
    case "gzip":
      return promisify(zlib.gzip)(bytes, { level: 9 }); // Node writes no time into the header
    case "lz4":
      return lz4LegacyEncode(bytes);
    case "zstd": {
      // One thread: the number of threads would change the bytes. Level 19 keeps the window at 8 MB.
      const args = ["-cq", "-19", "--single-thread"];
      return runFilter({ program: "zstd", args, debianPackage: "zstd" }, bytes, "the initrd", signal);
    }
    default:
      return assertNever(format);
  }
}
