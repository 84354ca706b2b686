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

/** A string without NUL characters: it becomes a C string in a system call. */
export const cString: Decoder<string> = (value) =>
  typeof value === "string" && !value.includes("\0") ? value : wrong("a string without NUL characters");

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
      for (const entry of value) items.push(item(entry));
    } catch (error) {
      throw inside(`[${items.length}]`, error);
    }
    return items;
  };

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
  const keys = Object.entries(shape);
  return (value) => {
    if (!isObject(value)) return wrong("an object");
    const decoded: Record<string, unknown> = {};
    let current = "";
    try {
      for (const [key, decoder] of keys) {
        current = key;
        decoded[key] = decoder(value[key]);
      }
    } catch (error) {
      throw inside(`.${current}`, error);
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
  try {
    return decoder(value);
  } catch (error) {
    // To look for such numbers beforehand takes as long as all else.
    return error instanceof Misfit && error.inexact
      ? decodeExactly(source, decoder, what, at)
      : refuse(error, at);
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
