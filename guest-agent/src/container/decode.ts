/**
 * Decoders that turn parsed JSON (`unknown`) into typed values, naming the key in errors. Go writes null for an empty
 * slice or pointer, so null counts as absent everywhere.
 */
import { SandboxError } from "../../../src/base/errors.ts";

/** @throws Misfit */
export type Decoder<T> = (value: unknown) => T;
export type Decoded<D> = D extends Decoder<infer T> ? T : never;

/** A value of the wrong shape. Its path is put together while the error goes up: most values are right. */
class Misfit extends Error {
  path = "";
  /** A number that JSON.parse has rounded. */
  readonly inexact: boolean;

  constructor(expected: string, inexact = false) {
    super(`must be ${expected}`);
    this.inexact = inexact;
  }
}

function wrong(expected: string): never {
  throw new Misfit(expected);
}

/** The error of a value at `step` of another one. */
function inside(step: string, error: unknown): unknown {
  if (error instanceof Misfit) error.path = step + error.path;
  return error;
}

const isObject = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

export const text: Decoder<string> = (value) => (typeof value === "string" ? value : wrong("a string"));

/** Whether a string may hold a NUL: in JSON that is an escape, and text without one needs no look at each string. */
let mayHoldNul = true;
const NUL_ESCAPE = "\\u0000";
const C_STRING = "a string without NUL characters";

/** A string without NUL characters: it becomes a C string in a system call. */
export const cString: Decoder<string> = (value) =>
  typeof value === "string" && !(mayHoldNul && value.includes("\0")) ? value : wrong(C_STRING);

export const flag: Decoder<boolean> = (value) =>
  typeof value === "boolean" ? value : wrong("true or false");

/** An integer of at most 53 bits. */
export const integer: Decoder<number> = (value) =>
  typeof value === "number" && Number.isSafeInteger(value) ? value : wrong("an integer");

/** An integer from 0 to 2^32-1: uid, gid, device number. */
export const uint32: Decoder<number> = (value) =>
  typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= 0xffffffff
    ? value
    : wrong("an integer from 0 to 4294967295");

/** A 64-bit integer, signed or unsigned; a decimal string where JSON.parse would round it (`exactIntegers`). */
export const int64: Decoder<bigint> = (value) => {
  if (typeof value === "number" && Number.isSafeInteger(value)) return BigInt(value);
  if (typeof value === "string" && /^-?\d{1,20}$/.test(value)) {
    const exact = BigInt(value);
    if (exact >= -(2n ** 63n) && exact < 2n ** 64n) return exact;
  }
  throw new Misfit("a 64-bit integer", Number.isInteger(value));
};

/** The value, or undefined when it is absent or null. */
export const optional =
  <T>(decoder: Decoder<T>): Decoder<T | undefined> =>
  (value) =>
    value === undefined || value === null ? undefined : decoder(value);

/** The value, or `fallback` when it is absent or null. */
export const withDefault =
  <T>(decoder: Decoder<T>, fallback: T): Decoder<T> =>
  (value) =>
    value === undefined || value === null ? fallback : decoder(value);

/** A list; absent counts as empty. */
export const list =
  <T>(item: Decoder<T>): Decoder<readonly T[]> =>
  (value) => {
    if (value === undefined || value === null) return [];
    if (!Array.isArray(value)) return wrong("a list");
    const items: T[] = [];
    try {
      // By index: an iterator costs more than an item does in the interpreter.
      for (let i = 0; i < value.length; i++) items.push(item(value[i]));
    } catch (error) {
      throw inside(`[${items.length}]`, error);
    }
    return items;
  };

/** As `list` of them: strings are most of a spec, and a function for each costs more than the look at it. */
export const cStrings: Decoder<readonly string[]> = (value) => stringList(value, C_STRING, mayHoldNul);
export const texts: Decoder<readonly string[]> = (value) => stringList(value, "a string", false);

function stringList(value: unknown, expected: string, withoutNul: boolean): readonly string[] {
  if (value === undefined || value === null) return [];
  if (!Array.isArray(value)) return wrong("a list");
  const { length } = value;
  for (let i = 0; i < length; i++) {
    const entry: unknown = value[i];
    if (typeof entry === "string" && !(withoutNul && entry.includes("\0"))) continue;
    throw inside(`[${i}]`, new Misfit(expected));
  }
  return value;
}

/** An object with arbitrary keys; absent counts as empty. */
export const mapOf =
  <T>(item: Decoder<T>): Decoder<ReadonlyMap<string, T>> =>
  (value) => {
    if (value === undefined || value === null) return new Map();
    if (!isObject(value)) return wrong("an object");
    const items = new Map<string, T>();
    for (const [key, entry] of Object.entries(value)) {
      try {
        items.set(key, item(entry));
      } catch (error) {
        throw inside(`["${key}"]`, error);
      }
    }
    return items;
  };

type Shape = Readonly<Record<string, Decoder<unknown>>>;

/** An object with known keys; others are ignored, as the OCI spec demands of unknown properties. */
export const object = <S extends Shape>(shape: S): Decoder<{ readonly [K in keyof S]: Decoded<S[K]> }> => {
  const keys = Object.keys(shape);
  return (value) => {
    if (!isObject(value)) return wrong("an object");
    const decoded: Record<string, unknown> = {};
    let key = "";
    try {
      for (let i = 0; i < keys.length; i++) {
        key = keys[i] as string;
        decoded[key] = (shape[key] as Decoder<unknown>)(value[key]);
      }
    } catch (error) {
      throw inside(`.${key}`, error);
    }
    // Each key of S was decoded by its own decoder just above.
    return decoded as { readonly [K in keyof S]: Decoded<S[K]> };
  };
};

/**
 * The decoded value of JSON text.
 * @param what the text, for the error when it is no JSON.
 * @param at the path of the value ("process"), "" for the whole spec.
 * @throws ERR_SPEC naming `what`, or the key that has the wrong shape.
 */
export function decodeJson<T>(source: string, decoder: Decoder<T>, what: string, at: string): T {
  const value = parse(source, what);
  mayHoldNul = source.includes(NUL_ESCAPE);
  try {
    return decoder(value);
  } catch (error) {
    // To look for such numbers beforehand takes as long as all else.
    return error instanceof Misfit && error.inexact
      ? decodeExactly(source, decoder, what, at)
      : refuse(error, at);
  } finally {
    mayHoldNul = true;
  }
}

function decodeExactly<T>(source: string, decoder: Decoder<T>, what: string, at: string): T {
  const value = parse(exactIntegers(source), what);
  try {
    return decoder(value);
  } catch (error) {
    return refuse(error, at);
  }
}

function parse(source: string, what: string): unknown {
  try {
    return JSON.parse(source);
  } catch (error) {
    throw new SandboxError("ERR_SPEC", `${what} is not valid JSON`, { cause: error });
  }
}

function refuse(error: unknown, at: string): never {
  if (!(error instanceof Misfit)) throw error;
  const path = at === "" ? error.path.replace(/^\./, "") : at + error.path;
  throw new SandboxError("ERR_SPEC", `${path} in the OCI spec ${error.message}`);
}

/** Puts quotes around integers of 16 digits or more that stand outside of strings. */
export function exactIntegers(source: string): string {
  return source.replace(/"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g, (token) =>
    /^-?\d{16,}$/.test(token) ? `"${token}"` : token,
  );
}
