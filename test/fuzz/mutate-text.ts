/** Changes to text and to JSON: words that parsers trip over, values of another type, depth, size. */
import { MAX_INPUT_BYTES, mutateBytes } from "./mutate.ts";
import type { Random } from "./random.ts";

/** What means something to some parser: numbers at their edges, names of Object.prototype, escapes, control characters. */
const WORDS = [
  ...[
    "",
    "0",
    "-0",
    "-1",
    "1e999",
    "-1e999",
    "1e-999",
    "9007199254740993",
    "18446744073709551616",
    "NaN",
    "Infinity",
  ],
  ...[
    "null",
    "true",
    "false",
    "[]",
    "{}",
    '""',
    "__proto__",
    "constructor",
    "prototype",
    "toString",
    "hasOwnProperty",
  ],
  ...[
    "..",
    "../",
    "/",
    "//",
    "/./",
    "/proc/self/fd/0",
    "/run/caisson",
    "%",
    "%00",
    "%2e%2e%2f",
    "%zz",
    "\0",
    "\n",
  ],
  ...[
    "\r\n",
    "\t",
    "\u001b[2J",
    "\u2028",
    "\ufeff",
    "\ud800",
    "\u{1f600}",
    "é",
    "a".repeat(300),
    "=",
    "==",
    ":",
    "::",
  ],
  ...[
    ",",
    ",,",
    ";",
    "#",
    "'",
    '"',
    "'''",
    '"""',
    "\\",
    "\\u0000",
    "[",
    "]",
    "{",
    "}",
    "[[",
    "]]",
    "(",
    ")",
    "*",
    "+",
  ],
  ...[
    "?",
    "a?b=c&b=d",
    "fifo://",
    "file:///",
    "binary:///",
    "ro",
    "rw",
    "rbind",
    "rshared",
    "0x10",
    "0o777",
    "1979-05-27",
  ],
  ...[
    "io.kubernetes.cri.container-type",
    "sandbox",
    "container",
    "host",
    "inf",
    "1_000",
    "1.5",
    "-9223372036854775808",
  ],
] as const;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** Text after byte changes, or with words put into it. */
export function mutateText(input: Uint8Array, random: Random, others: readonly Uint8Array[]): Uint8Array {
  if (random.oneIn(3)) return mutateBytes(input, random, others);
  let text = decoder.decode(input);
  const count = 1 + random.below(4);
  for (let i = 0; i < count; i++) text = changedText(text, random);
  return encoder.encode(text).subarray(0, MAX_INPUT_BYTES);
}

function changedText(text: string, random: Random): string {
  const at = random.below(text.length + 1);
  const word = random.pick(WORDS);
  switch (random.below(5)) {
    case 0:
      return text.slice(0, at) + word + text.slice(at);
    case 1:
      return text.slice(0, at) + word + text.slice(at + random.below(12));
    case 2:
      return text.slice(0, at) + word.repeat(1 + random.below(random.pick([4, 100, 3000]))) + text.slice(at);
    case 3: {
      // One of its own words instead of another.
      const words = text.match(/[\w./-]+/g) ?? [""];
      return text.replace(random.pick(words), () => (random.oneIn(2) ? word : random.pick(words)));
    }
    default: {
      const lines = text.split("\n");
      const from = random.below(lines.length);
      if (random.oneIn(2)) lines.splice(from, 1);
      else lines.splice(random.below(lines.length), 0, lines[from] ?? "");
      return lines.join("\n");
    }
  }
}

/** JSON of which a few values are others; now and then no JSON any more. */
export function mutateJson(input: Uint8Array, random: Random, others: readonly Uint8Array[]): Uint8Array {
  if (random.oneIn(6)) return mutateText(input, random, others);
  let value: unknown;
  try {
    value = JSON.parse(decoder.decode(input));
  } catch {
    return mutateText(input, random, others);
  }
  const count = 1 + random.below(random.pick([1, 3, 8]));
  for (let i = 0; i < count; i++) value = changedValue(value, random);
  const text = JSON.stringify(value) ?? "null";
  if (text.length <= MAX_INPUT_BYTES) return encoder.encode(text);
  // Too large after all: cut, it is no JSON any more, which has to be survived too.
  return encoder.encode(text.slice(0, MAX_INPUT_BYTES)).subarray(0, MAX_INPUT_BYTES);
}

/** Goes down at random and changes what it comes to. */
function changedValue(value: unknown, random: Random, depth = 0): unknown {
  if (depth > 24 || typeof value !== "object" || value === null || random.oneIn(6)) {
    return random.oneIn(3) ? changedScalar(value, random) : strangeValue(random);
  }
  if (Array.isArray(value)) {
    const items: unknown[] = [...value];
    const at = random.below(items.length);
    const act = random.below(5);
    if (act === 0) items.splice(at, 1);
    else if (act === 1) items.splice(at, 0, strangeValue(random));
    else if (act === 2 && items.length > 0) {
      const copies = 1 + random.below(random.pick([2, 20, 400]));
      items.splice(at, 0, ...Array<unknown>(copies).fill(items[at]));
    } else items[at] = changedValue(items[at], random, depth + 1);
    return items;
  }
  const entries = Object.entries(value);
  const at = random.below(entries.length);
  const [name = "", inner] = entries[at] ?? [];
  const act = random.below(6);
  if (act === 0) entries.splice(at, 1);
  else if (act === 1) entries.push([random.pick(WORDS), strangeValue(random)]);
  else if (act === 2) entries.splice(at, 1, [random.pick(WORDS), inner]);
  else entries.splice(at, 1, [name, changedValue(inner, random, depth + 1)]);
  // Not through an object literal: a member named __proto__ is a member here, as JSON.parse has it.
  const changed: Record<string, unknown> = {};
  for (const [key, item] of entries) {
    Object.defineProperty(changed, key, {
      value: item,
      enumerable: true,
      configurable: true,
      writable: true,
    });
  }
  return changed;
}

function changedScalar(value: unknown, random: Random): unknown {
  if (typeof value === "string") return changedText(value, random);
  if (typeof value === "number")
    return random.pick([-value, value + 1, value - 1, value * 2 ** 32, value / 3, -1]);
  if (typeof value === "boolean") return !value;
  return strangeValue(random);
}

function strangeValue(random: Random): unknown {
  switch (random.below(8)) {
    case 0:
      return null;
    case 1:
      return random.oneIn(2);
    case 2:
      return random.pick([0, -1, 0.5, 2 ** 31, 2 ** 32, 2 ** 53, 2 ** 64, 1e308, -1e308]);
    case 3:
      return [];
    case 4:
      return {};
    case 5: {
      let nest: unknown = 1;
      const depth = random.pick([3, 50, 2000]);
      for (let i = 0; i < depth; i++) nest = random.oneIn(2) ? [nest] : { a: nest };
      return nest;
    }
    default:
      return random.pick(WORDS);
  }
}
