/** Changes to bytes: what goes wrong with lengths, types, order, size and place. */
import type { Random } from "./random.ts";

/** Largest input that is made, in bytes. */
export const MAX_INPUT_BYTES = 64 << 10;

/** Edges of the integers that lengths, ids and counters are kept in. */
const EDGES = [
  0, 1, 2, 3, 4, 7, 8, 15, 16, 31, 32, 63, 64, 127, 128, 255, 256, 1023, 4095, 4096, 16_384, 32_767, 32_768,
  65_535, 65_536, 0x3f_ffff, 0x40_0000, 0x40_0001, 0x7fff_ffff, 0x8000_0000, 0xffff_fff0, 0xffff_ffff,
] as const;

type Change = (input: Uint8Array, random: Random, others: readonly Uint8Array[]) => Uint8Array;

const joined = (...parts: readonly Uint8Array[]): Uint8Array => Buffer.concat(parts);

function changedCopy(input: Uint8Array, change: (copy: Uint8Array) => void): Uint8Array {
  const copy = Uint8Array.from(input);
  if (copy.length > 0) change(copy);
  return copy;
}

const flipBit: Change = (input, random) =>
  changedCopy(input, (copy) => {
    const at = random.below(copy.length);
    copy[at] = (copy[at] ?? 0) ^ (1 << random.below(8));
  });

const setByte: Change = (input, random) =>
  changedCopy(input, (copy) => {
    copy[random.below(copy.length)] = random.oneIn(2) ? random.pick(EDGES) : random.next();
  });

/** An integer of 2, 4 or 8 bytes, of either order, set to an edge or moved by a little. */
const setInteger: Change = (input, random) =>
  changedCopy(input, (copy) => {
    const size = random.pick([2, 4, 8] as const);
    if (copy.length < size) return;
    const at = random.below(copy.length - size + 1);
    const view = new DataView(copy.buffer, copy.byteOffset, copy.byteLength);
    const little = random.oneIn(2);
    const low = size === 8 && !little ? at + 4 : at;
    const edge = random.pick(EDGES);
    const delta = random.below(17) - 8;
    if (size === 2) view.setUint16(at, random.oneIn(2) ? edge : view.getUint16(at, little) + delta, little);
    else view.setUint32(low, random.oneIn(2) ? edge : view.getUint32(low, little) + delta, little);
    if (size === 8 && random.oneIn(2)) view.setUint32(low === at ? at + 4 : at, random.pick(EDGES), little);
  });

const remove: Change = (input, random) => {
  const at = random.below(input.length);
  const end = at + 1 + random.below(Math.min(input.length - at, random.pick([1, 4, 64, 4096])));
  return joined(input.subarray(0, at), input.subarray(end));
};

const truncate: Change = (input, random) => input.slice(0, random.below(input.length));

const insert: Change = (input, random) => {
  const at = random.below(input.length + 1);
  const size = 1 + random.below(random.pick([1, 4, 32, 512]));
  const filler = random.oneIn(2) ? random.bytes(size) : new Uint8Array(size).fill(random.pick(EDGES));
  return joined(input.subarray(0, at), filler, input.subarray(at));
};

/** A part again at another place: messages twice, nests within nests. */
const copyPart: Change = (input, random) => {
  const from = random.below(input.length);
  const part = input.subarray(from, from + 1 + random.below(Math.min(input.length - from, 256)));
  const at = random.below(input.length + 1);
  return joined(input.subarray(0, at), part, input.subarray(at));
};

/** A part many times over: counts, depth, growth. */
const multiply: Change = (input, random) => {
  const from = random.below(input.length);
  const part = input.subarray(from, from + 1 + random.below(Math.min(input.length - from, 64)));
  const times = 1 + random.below(random.pick([8, 64, 2048]));
  const copies = Array<Uint8Array>(
    Math.min(times, Math.ceil(MAX_INPUT_BYTES / Math.max(1, part.length))),
  ).fill(part);
  return joined(input.subarray(0, from), ...copies, input.subarray(from));
};

/** The beginning of this and the end of another. */
const cross: Change = (input, random, others) => {
  const other = others.length === 0 ? input : random.pick(others);
  return joined(
    input.subarray(0, random.below(input.length + 1)),
    other.subarray(random.below(other.length + 1)),
  );
};

const append: Change = (input, random, others) =>
  joined(input, others.length === 0 ? input : random.pick(others));

const CHANGES: readonly Change[] = [
  flipBit,
  flipBit,
  setByte,
  setByte,
  setInteger,
  setInteger,
  remove,
  truncate,
  insert,
  copyPart,
  multiply,
  cross,
  append,
];

/** `input` after one to six changes; `others` lend their parts. At most MAX_INPUT_BYTES long. */
export function mutateBytes(input: Uint8Array, random: Random, others: readonly Uint8Array[]): Uint8Array {
  let bytes = input;
  const count = 1 + random.below(random.pick([1, 2, 6]));
  for (let i = 0; i < count; i++) bytes = random.pick(CHANGES)(bytes, random, others);
  // No Buffer: their slice() is another one.
  return new Uint8Array(bytes.subarray(0, MAX_INPUT_BYTES));
}
