/** What a child process printed last, bounded: for error messages, the console view and logs. */

/** Bytes kept of each output stream of a child. */
export const TAIL_BYTES = 64 * 1024;

/** Longest line handed to a line callback; the rest of an over-long line is dropped. */
export const LINE_LIMIT_BYTES = 8 * 1024;

/** Keeps the last `limit` bytes of what is pushed. */
export class TailBuffer {
  readonly #limit: number;
  #chunks: Buffer[] = [];
  #size = 0;

  constructor(limit: number = TAIL_BYTES) {
    this.#limit = limit;
  }

  push(chunk: Uint8Array): void {
    // Copied: a small view would keep Node's whole pooled read buffer alive.
    const kept = Buffer.from(chunk.byteLength > this.#limit ? chunk.subarray(-this.#limit) : chunk);
    this.#chunks.push(kept);
    this.#size += kept.length;
    // Whole chunks are dropped only once that leaves enough, so the buffer holds at most limit + one chunk.
    for (let first = this.#chunks[0]; first !== undefined; first = this.#chunks[0]) {
      if (this.#size - first.length < this.#limit) break;
      this.#size -= first.length;
      this.#chunks.shift();
    }
    if (this.#chunks.length > 256) this.#chunks = [Buffer.concat(this.#chunks)];
  }

  /** The last bytes as they came, decoded as UTF-8; at most the limit. */
  text(): string {
    return Buffer.concat(this.#chunks).subarray(-this.#limit).toString("utf8");
  }

  /** The last `count` non-empty lines with terminal escapes and control characters removed, oldest first. */
  lastLines(count: number): string[] {
    return printable(this.text())
      .split("\n")
      .map((line) => line.trimEnd())
      .filter((line) => line !== "")
      .slice(-count);
  }
}

/** `text` without ANSI escape sequences and control characters other than tab and newline: safe for a terminal. */
export function printable(text: string): string {
  return (
    text
      // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is removed
      .replace(/\u001b(?:\[[0-?]*[ -/]*[@-~]|[@-Z\\-_])/g, "")
      .replace(/\r\n?/g, "\n")
      // biome-ignore lint/suspicious/noControlCharactersInRegex: see above
      .replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, "")
  );
}

/**
 * Cuts a byte stream into lines. Over-long lines are cut at LINE_LIMIT_BYTES; a carriage return before the newline
 * is dropped. What follows the last newline is delivered by `flush`.
 */
export class LineSplitter {
  readonly #onLine: (line: string) => void;
  readonly #limit: number;
  #parts: Buffer[] = [];
  #length = 0;

  constructor(onLine: (line: string) => void, limit: number = LINE_LIMIT_BYTES) {
    this.#onLine = onLine;
    this.#limit = limit;
  }

  push(chunk: Uint8Array): void {
    const bytes = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    let start = 0;
    for (let end = bytes.indexOf(0x0a); end !== -1; end = bytes.indexOf(0x0a, start)) {
      this.#keep(bytes.subarray(start, end));
      this.#emit();
      start = end + 1;
    }
    this.#keep(bytes.subarray(start));
  }

  flush(): void {
    if (this.#length > 0) this.#emit();
  }

  #keep(part: Buffer): void {
    const room = this.#limit - this.#length;
    if (part.length === 0 || room <= 0) return;
    const kept = Buffer.from(part.subarray(0, room));
    this.#parts.push(kept);
    this.#length += kept.length;
  }

  #emit(): void {
    const line = Buffer.concat(this.#parts).toString("utf8");
    this.#parts = [];
    this.#length = 0;
    this.#onLine(line.endsWith("\r") ? line.slice(0, -1) : line);
  }
}
