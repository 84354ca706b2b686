/**
 * Writer of cpio archives in the "newc" format, the one that the kernel unpacks into its root file system
 * (Documentation/driver-api/early-userspace/buffer-format.rst).
 *
 * An archive is a sequence of entries, each a 110-byte header of ASCII hexadecimal fields, the NUL-terminated name
 * and the data, the latter two each padded with zeros to a multiple of four bytes; the entry `TRAILER!!!` ends it.
 * The output depends on the entries and `mtime` alone: inode numbers count up from 1 and devices are 0.
 */
import { SandboxError } from "../src/base/errors.ts";

export type CpioEntry =
  | { readonly kind: "directory"; readonly path: string; readonly mode: number }
  | { readonly kind: "file"; readonly path: string; readonly mode: number; readonly data: Uint8Array }
  | { readonly kind: "symlink"; readonly path: string; readonly target: string }
  | {
      readonly kind: "character-device";
      readonly path: string;
      readonly mode: number;
      readonly major: number;
      readonly minor: number;
    };

/** File type bits of `st_mode` (include/uapi/linux/stat.h). */
const typeBits = { directory: 0o040000, file: 0o100000, symlink: 0o120000, "character-device": 0o020000 };

const HEADER_BYTES = 110;
const MAGIC = "070701";
const TRAILER = "TRAILER!!!";
/** The kernel's limit of a name, its NUL included (PATH_MAX, include/uapi/linux/limits.h). */
const MAX_NAME_BYTES = 4096;
const UINT32_MAX = 0xffff_ffff;
const noData = new Uint8Array(0);

interface Header {
  readonly inode: number;
  readonly mode: number;
  readonly links: number;
  readonly mtime: number;
  readonly dataBytes: number;
  readonly major: number;
  readonly minor: number;
}

/**
 * The archive of `entries`, in their order; a directory must come before what it holds.
 * @param mtime modification time of every entry, whole seconds since 1970, 0 to 2^32 - 1.
 * @throws SandboxError ERR_INVALID_ARGUMENT for a path that is relative, repeated, not normal or too long.
 */
export function cpioArchive(entries: readonly CpioEntry[], mtime: number): Uint8Array {
  const chunks: Uint8Array[] = [];
  const seen = new Set<string>();
  entries.forEach((entry, index) => {
    checkPath(entry.path, seen);
    const data = dataOf(entry);
    const device = entry.kind === "character-device" ? entry : { major: 0, minor: 0 };
    const permissions = entry.kind === "symlink" ? 0o777 : entry.mode & 0o7777;
    const header: Header = {
      inode: index + 1,
      mode: typeBits[entry.kind] | permissions,
      links: entry.kind === "directory" ? 2 : 1,
      mtime,
      dataBytes: data.length,
      major: device.major,
      minor: device.minor,
    };
    pushEntry(chunks, header, entry.path.slice(1), data);
  });
  pushEntry(
    chunks,
    { inode: 0, mode: 0, links: 1, mtime: 0, dataBytes: 0, major: 0, minor: 0 },
    TRAILER,
    noData,
  );
  return Buffer.concat(chunks);
}

function dataOf(entry: CpioEntry): Uint8Array {
  if (entry.kind === "file") return entry.data;
  if (entry.kind === "symlink") return Buffer.from(entry.target);
  return noData;
}

function pushEntry(chunks: Uint8Array[], header: Header, name: string, data: Uint8Array): void {
  const nameBytes = Buffer.from(`${name}\0`);
  const fields = [
    header.inode,
    header.mode,
    0, // uid
    0, // gid
    header.links,
    header.mtime,
    header.dataBytes,
    0, // device of the archived file, major and minor
    0,
    header.major,
    header.minor,
    nameBytes.length,
    0, // checksum, used by the "070702" variant only
  ];
  const text = MAGIC + fields.map(hex8).join("");
  chunks.push(Buffer.from(text, "latin1"), nameBytes, padding(HEADER_BYTES + nameBytes.length));
  chunks.push(data, padding(data.length));
}

function padding(bytes: number): Uint8Array {
  return new Uint8Array((4 - (bytes % 4)) % 4);
}

function hex8(value: number): string {
  if (!Number.isInteger(value) || value < 0 || value > UINT32_MAX) {
    throw new SandboxError(
      "ERR_INVALID_ARGUMENT",
      `${value} does not fit a cpio header field (0 to 2^32 - 1)`,
    );
  }
  return value.toString(16).padStart(8, "0").toUpperCase();
}

function checkPath(path: string, seen: Set<string>): void {
  const parts = path.split("/").slice(1);
  const normal = path.startsWith("/") && parts.every((part) => part !== "" && part !== "." && part !== "..");
  if (!normal || path.includes("\0")) {
    throw new SandboxError(
      "ERR_INVALID_ARGUMENT",
      `"${path}" is not a path inside the image: it must be absolute, without "." or ".." and without a final slash`,
    );
  }
  if (Buffer.byteLength(path) > MAX_NAME_BYTES) {
    throw new SandboxError(
      "ERR_INVALID_ARGUMENT",
      `the path ${path.slice(0, 80)}… is longer than the kernel takes`,
    );
  }
  if (seen.has(path)) {
    throw new SandboxError(
      "ERR_INVALID_ARGUMENT",
      `two things are to be at ${path} in the image; leave one out`,
    );
  }
  seen.add(path);
}
