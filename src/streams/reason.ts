/** The text of a RESET frame: UTF-8 without TextEncoder, which QuickJS does not have. Portable. */

/** Bytes of a reason at most; more is cut, by the sender and by the reader of it. */
export const MAX_REASON_BYTES = 512;

/** UTF-8 of `text`, cut between characters. */
export function encodeReason(text: string): Uint8Array {
  const bytes: number[] = [];
  for (const character of text) {
    const encoded = utf8(character.codePointAt(0) ?? 0);
    if (bytes.length + encoded.length > MAX_REASON_BYTES) break;
    bytes.push(...encoded);
  }
  return Uint8Array.from(bytes);
}

function utf8(point: number): number[] {
  if (point >= 0xd800 && point <= 0xdfff) return [0xef, 0xbf, 0xbd];
  if (point < 0x80) return [point];
  const tail = (shift: number) => 0x80 | ((point >> shift) & 0x3f);
  if (point < 0x800) return [0xc0 | (point >> 6), tail(0)];
  if (point < 0x10000) return [0xe0 | (point >> 12), tail(6), tail(0)];
  return [0xf0 | (point >> 18), tail(12), tail(6), tail(0)];
}

/**
 * Text for a log or an error out of bytes that nobody vouches for: cut, what is not UTF-8 and control characters
 * replaced, so that it cannot forge log lines or move a terminal's cursor.
 */
export function decodeReason(bytes: Uint8Array): string {
  let text = "";
  for (let i = 0; i < Math.min(bytes.length, MAX_REASON_BYTES); ) {
    const [point, size] = codePoint(bytes, i);
    const control = point < 0x20 || (point >= 0x7f && point < 0xa0) || point === 0x2028 || point === 0x2029;
    text += String.fromCodePoint(control ? 0xfffd : point);
    i += size;
  }
  return text;
}

/** The character at `index` and its bytes; U+FFFD and 1 for a malformed one. */
function codePoint(bytes: Uint8Array, index: number): [point: number, size: number] {
  const first = bytes[index] ?? 0;
  if (first < 0x80) return [first, 1];
  const size = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  let point = first & (0xff >> (size + 1));
  for (let i = 1; i < size; i++) {
    const next = bytes[index + i];
    if (next === undefined || (next & 0xc0) !== 0x80) return [0xfffd, 1];
    point = (point << 6) | (next & 0x3f);
  }
  const least = [0, 0, 0x80, 0x800, 0x10000][size] ?? 0;
  const valid =
    first >= 0xc2 &&
    first < 0xf5 &&
    point >= least &&
    point <= 0x10ffff &&
    (point < 0xd800 || point > 0xdfff);
  return valid ? [point, size] : [0xfffd, 1];
}
