/**
 * Tar archives as `shim cp` needs them (POSIX ustar, pax.1; GNU long names): written from files of this host, and read
 * from a guest that is not trusted. Reading refuses everything that could reach beyond the destination or be more than
 * data: paths that climb, devices, set-user-id bits; and links are made last, so that nothing is written through one.
 */
import fs from "node:fs";
import { dirname, join } from "node:path";
import { SandboxError } from "../base/errors.ts";

const BLOCK = 512;
/** Types of ustar, and GNU's for the long name (L) or link target (K) of the entry that follows. */
const Type = {
  file: "0",
  hardLink: "1",
  symlink: "2",
  directory: "5",
  longName: "L",
  longTarget: "K",
} as const;

export interface TarHeader {
  readonly name: string;
  readonly type: string;
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly size: number;
  /** Seconds since the epoch. */
  readonly mtime: number;
  readonly target: string;
}

// ---- writing

/** The header of an entry, with GNU's extra entries in front where a name is too long. Pure. */
export function encodeHeader(header: TarHeader): Buffer {
  const extra: Buffer[] = [];
  for (const [text, type] of [
    [header.target, Type.longTarget],
    [header.name, Type.longName],
  ] as const) {
    const bytes = Buffer.from(`${text}\0`);
    if (bytes.length <= 100) continue;
    const size = bytes.length;
    const long = { name: "././@LongLink", type, mode: 0, uid: 0, gid: 0, size, mtime: 0, target: "" };
    extra.push(encodeBlock(long), bytes, padding(size));
  }
  return Buffer.concat([...extra, encodeBlock(header)]);
}

/** Zeros up to the next block. */
function padding(size: number): Buffer {
  return Buffer.alloc((BLOCK - (size % BLOCK)) % BLOCK);
}

function encodeBlock(header: TarHeader): Buffer {
  const block = Buffer.alloc(BLOCK);
  Buffer.from(header.name).copy(block, 0, 0, 100);
  writeNumber(block, 100, 8, header.mode);
  writeNumber(block, 108, 8, header.uid);
  writeNumber(block, 116, 8, header.gid);
  writeNumber(block, 124, 12, header.size);
  writeNumber(block, 136, 12, Math.max(0, Math.floor(header.mtime)));
  block.write(header.type, 156);
  Buffer.from(header.target).copy(block, 157, 0, 100);
  block.write("ustar  \0", 257, "latin1"); // GNU's form of the magic, for its long names
  block.fill(0x20, 148, 156);
  const checksum = block.reduce((total, byte) => total + byte, 0);
  block.write(`${checksum.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
  return block;
}

/** Octal with a final NUL; GNU's base-256 where that is too small. */
function writeNumber(block: Buffer, offset: number, length: number, value: number): void {
  const octal = value.toString(8);
  if (octal.length < length) {
    block.write(`${octal.padStart(length - 1, "0")}\0`, offset, "latin1");
    return;
  }
  let rest = BigInt(value);
  for (let at = offset + length - 1; at > offset; at--) {
    block[at] = Number(rest & 0xffn);
    rest >>= 8n;
  }
  block[offset] = 0x80;
}

/** The archive of `source` (followed when it is a link) under `name`, piece by piece. @throws ERR_NOT_FOUND */
export async function* packTree(source: string, name: string): AsyncGenerator<Buffer, void, undefined> {
  const stat = fs.statSync(source, { throwIfNoEntry: false });
  if (stat === undefined) throw new SandboxError("ERR_NOT_FOUND", `${source} does not exist`);
  yield* packEntry(fs.realpathSync(source), name, stat);
  yield Buffer.alloc(2 * BLOCK);
}

async function* packEntry(
  path: string,
  name: string,
  stat: fs.Stats,
): AsyncGenerator<Buffer, void, undefined> {
  const base = { name, mode: stat.mode & 0o7777, uid: stat.uid, gid: stat.gid, mtime: stat.mtimeMs / 1000 };
  if (stat.isDirectory()) {
    yield encodeHeader({ ...base, name: `${name}/`, type: Type.directory, size: 0, target: "" });
    for (const inner of fs.readdirSync(path).sort())
      yield* packEntry(join(path, inner), `${name}/${inner}`, fs.lstatSync(join(path, inner)));
  } else if (stat.isSymbolicLink()) {
    yield encodeHeader({ ...base, type: Type.symlink, size: 0, target: fs.readlinkSync(path) });
  } else if (stat.isFile()) {
    yield encodeHeader({ ...base, type: Type.file, size: stat.size, target: "" });
    yield* fileContent(path, stat.size);
    yield padding(stat.size);
  } else {
    throw new SandboxError("ERR_UNSUPPORTED", `${path} is neither a file, a directory nor a link`);
  }
}

/** Exactly `size` bytes, whatever happens to the file meanwhile. */
async function* fileContent(path: string, size: number): AsyncGenerator<Buffer, void, undefined> {
  let missing = size;
  if (size === 0) return;
  for await (const chunk of fs.createReadStream(path, { end: size - 1, highWaterMark: 1 << 18 })) {
    missing -= (chunk as Buffer).length;
    yield chunk as Buffer;
  }
  if (missing > 0) yield Buffer.alloc(missing);
}

// ---- reading

/** Undefined for a block of zeros, which ends an archive. @throws ERR_PROTOCOL for a wrong checksum or number. Pure. */
export function decodeHeader(block: Buffer): TarHeader | undefined {
  if (block.every((byte) => byte === 0)) return undefined;
  const text = (offset: number, length: number) => {
    const end = block.indexOf(0, offset);
    return block.toString("utf8", offset, end >= offset && end < offset + length ? end : offset + length);
  };
  const sum = block.reduce((total, byte, at) => total + (at >= 148 && at < 156 ? 0x20 : byte), 0);
  if (sum !== Number.parseInt(text(148, 8).trim() || "-1", 8))
    throw new SandboxError("ERR_PROTOCOL", "the guest sent something that is not a tar archive");
  const prefix = text(257, 5) === "ustar" && text(263, 2) === "00" ? text(345, 155) : "";
  return {
    name: prefix === "" ? text(0, 100) : `${prefix}/${text(0, 100)}`,
    type: block[156] === 0 ? Type.file : String.fromCharCode(block[156] ?? 0),
    mode: readNumber(block, 100, 8),
    uid: readNumber(block, 108, 8),
    gid: readNumber(block, 116, 8),
    size: readNumber(block, 124, 12),
    mtime: readNumber(block, 136, 12),
    target: text(157, 100),
  };
}

function readNumber(block: Buffer, offset: number, length: number): number {
  const number = numberAt(block, offset, length);
  if (Number.isSafeInteger(number) && number >= 0) return number;
  throw new SandboxError(
    "ERR_PROTOCOL",
    "the guest sent a tar archive with a size, time or owner that is none",
  );
}

/** Octal text, or with the first bit set a number in base 256. NaN for neither. */
function numberAt(block: Buffer, offset: number, length: number): number {
  if (((block[offset] ?? 0) & 0x80) === 0)
    return Number.parseInt(
      block.toString("latin1", offset, offset + length).replace(/[\0 ].*$/s, "") || "0",
      8,
    );
  let value = BigInt((block[offset] ?? 0) & 0x7f);
  for (let at = offset + 1; at < offset + length; at++) value = value * 256n + BigInt(block[at] ?? 0);
  return Number(value);
}

export interface UnpackResult {
  readonly files: number;
  readonly bytes: number;
  /** What was left out, and why. */
  readonly skipped: readonly string[];
}

/** Longest name of GNU's long entries that is believed (PATH_MAX of linux/limits.h). */
const MAX_NAME = 4096;

/**
 * Unpacks an archive whose only top entry becomes `destination`, which must not exist. Files belong to the caller.
 * @throws SandboxError ERR_PROTOCOL for an archive that is none or that climbs, ERR_STATE when it is empty.
 */
export async function unpackTree(
  archive: AsyncIterable<Uint8Array>,
  destination: string,
): Promise<UnpackResult> {
  const reader = new BlockReader(archive);
  const links: { path: string; target: string }[] = [];
  const skipped: string[] = [];
  let long: { name?: string; target?: string } = {};
  let files = 0;
  let bytes = 0;
  for (let block = await reader.block(); block !== undefined; block = await reader.block()) {
    const raw = decodeHeader(block);
    if (raw === undefined) break;
    if (raw.type === Type.longName || raw.type === Type.longTarget) {
      const text = (await reader.take(raw.size, MAX_NAME)).toString("utf8").replace(/\0.*$/s, "");
      long = raw.type === Type.longName ? { ...long, name: text } : { ...long, target: text };
      continue;
    }
    const header = {
      ...raw,
      ...(long.name && { name: long.name }),
      ...(long.target && { target: long.target }),
    };
    long = {};
    const path = placeOf(header.name, destination);
    switch (header.type) {
      case Type.directory:
        makeDirectories(path, destination);
        break;
      case Type.file:
        await reader.copy(header.size, path, header.mode & 0o777, destination);
        fs.utimesSync(path, header.mtime, header.mtime);
        files += 1;
        bytes += header.size;
        break;
      case Type.symlink:
        links.push({ path, target: header.target });
        break;
      case Type.hardLink:
        fs.linkSync(placeOf(header.target, destination), path);
        files += 1;
        break;
      default:
        skipped.push(`${header.name}: not a file, a directory or a link`);
        await reader.skip(header.size);
    }
  }
  for (const { path, target } of links) fs.symlinkSync(target, path);
  await reader.rest();
  if (!fs.existsSync(destination) && links.length === 0)
    throw new SandboxError("ERR_STATE", "the guest sent nothing that could be copied");
  return { files: files + links.length, bytes, skipped };
}

/** `path`, and what is missing above it up to `top`. One by one: Node's own recursion never ends below /proc. */
function makeDirectories(path: string, top: string): void {
  if (fs.lstatSync(path, { throwIfNoEntry: false })?.isDirectory() === true) return;
  if (path !== top) makeDirectories(dirname(path), top);
  fs.mkdirSync(path, { mode: 0o700 });
}

/** Where an entry goes: its first component is the destination itself. @throws ERR_PROTOCOL when it climbs */
function placeOf(name: string, destination: string): string {
  const parts = name.split("/").filter((part) => part !== "" && part !== ".");
  if (name.startsWith("/") || name.includes("\0") || parts.includes("..") || parts.length === 0)
    throw new SandboxError(
      "ERR_PROTOCOL",
      `the guest's archive has the path ${JSON.stringify(name)}, which is refused`,
    );
  return join(destination, ...parts.slice(1));
}

/** Cuts a byte stream into blocks and file contents. */
class BlockReader {
  readonly #source: AsyncIterator<Uint8Array>;
  #held: Buffer = Buffer.alloc(0);

  constructor(source: AsyncIterable<Uint8Array>) {
    this.#source = source[Symbol.asyncIterator]();
  }

  /** Undefined at the end. */
  async block(): Promise<Buffer | undefined> {
    const parts: Buffer[] = [];
    let missing = BLOCK;
    while (missing > 0) {
      const piece = await this.#piece(missing);
      if (piece === undefined) return undefined;
      parts.push(piece);
      missing -= piece.length;
    }
    return Buffer.concat(parts);
  }

  /** Content of at most `limit` bytes, and its padding. */
  async take(size: number, limit: number): Promise<Buffer> {
    if (size > limit)
      throw new SandboxError("ERR_PROTOCOL", "the guest's archive has a name that is too long");
    const parts: Buffer[] = [];
    await this.#each(size, (piece) => void parts.push(piece));
    return Buffer.concat(parts);
  }

  /** Content into a new file, and its padding. */
  async copy(size: number, path: string, mode: number, top: string): Promise<void> {
    if (path !== top) makeDirectories(dirname(path), top);
    const fd = fs.openSync(path, "wx", 0o600);
    try {
      await this.#each(size, (piece) => {
        for (let at = 0; at < piece.length; ) at += fs.writeSync(fd, piece, at);
      });
      fs.fchmodSync(fd, mode);
    } finally {
      fs.closeSync(fd);
    }
  }

  async skip(size: number): Promise<void> {
    await this.#each(size, () => undefined);
  }

  /** Takes whatever still comes. */
  async rest(): Promise<void> {
    while ((await this.#piece(1 << 20)) !== undefined);
  }

  async #each(size: number, take: (piece: Buffer) => void): Promise<void> {
    let missing = size;
    while (missing > 0) {
      const piece = await this.#piece(missing);
      if (piece === undefined)
        throw new SandboxError("ERR_PROTOCOL", "the guest's archive ends in the middle");
      missing -= piece.length;
      take(piece);
    }
    let pad = (BLOCK - (size % BLOCK)) % BLOCK;
    while (pad > 0) {
      const piece = await this.#piece(pad);
      if (piece === undefined) return;
      pad -= piece.length;
    }
  }

  /** At most `limit` of the next bytes; undefined at the end. */
  async #piece(limit: number): Promise<Buffer | undefined> {
    while (this.#held.length === 0) {
      const { value, done } = await this.#source.next();
      if (done === true || value === undefined) return undefined;
      this.#held = Buffer.from(value.buffer, value.byteOffset, value.byteLength);
    }
    const piece = this.#held.subarray(0, limit);
    this.#held = this.#held.subarray(piece.length);
    return piece;
  }
}
