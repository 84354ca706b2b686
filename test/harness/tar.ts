/**
 * A deterministic writer of ustar archives (POSIX.1-1988, "ustar Interchange Format"): the same entries give the same
 * bytes, whatever the machine, the user or the time.
 */
const BLOCK = 512;

export interface TarEntry {
  /** Path without a leading slash, at most 100 bytes. */
  readonly path: string;
  readonly mode: number;
  /** Content of a file; absent for a directory or a link. */
  readonly content?: Uint8Array;
  /** Target of a symbolic link. */
  readonly linkTo?: string;
  readonly uid?: number;
  readonly gid?: number;
}

/** The archive of `entries` in their order. @throws when a path or a link target does not fit its field. */
export function tarArchive(entries: readonly TarEntry[]): Buffer {
  const blocks: Uint8Array[] = [];
  for (const entry of entries) {
    blocks.push(header(entry));
    const content = entry.content;
    if (content === undefined) continue;
    blocks.push(content, new Uint8Array((BLOCK - (content.length % BLOCK)) % BLOCK));
  }
  // Two zero blocks end an archive.
  blocks.push(new Uint8Array(2 * BLOCK));
  return Buffer.concat(blocks);
}

/** Offsets and widths of the header fields are those of the standard's table. */
function header(entry: TarEntry): Buffer {
  const block = Buffer.alloc(BLOCK);
  const text = (value: string, offset: number, width: number) => {
    if (Buffer.byteLength(value) > width) throw new Error(`"${value}" does not fit into a tar header`);
    block.write(value, offset, "utf8");
  };
  const octal = (value: number, offset: number, width: number) =>
    text(value.toString(8).padStart(width - 1, "0"), offset, width);
  text(entry.path, 0, 100);
  octal(entry.mode, 100, 8);
  octal(entry.uid ?? 0, 108, 8);
  octal(entry.gid ?? 0, 116, 8);
  octal(entry.content?.length ?? 0, 124, 12);
  octal(0, 136, 12);
  block.fill(" ", 148, 156);
  block.write(typeFlag(entry), 156);
  text(entry.linkTo ?? "", 157, 100);
  block.write("ustar\0" + "00", 257, "latin1");
  let sum = 0;
  for (const byte of block) sum += byte;
  block.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148, "latin1");
  return block;
}

/** "0" file, "2" symbolic link, "5" directory. */
function typeFlag(entry: TarEntry): string {
  if (entry.linkTo !== undefined) return "2";
  return entry.content === undefined ? "5" : "0";
}
