/**
 * Decoders that turn parsed JSON (`unknown`) into typed values, naming the key in errors. Go writes null for an empty
 * slice or pointer, so null counts as absent everywhere.
 */
import { SandboxError } from "../../../src/base/errors.ts";

/** @param at the path of the value ("process.user.uid"), for errors. @throws ERR_SPEC */
export type Decoder<T> = (value: unknown, at: string) => T;
export type Decoded<D> = D extends Decoder<infer T> ? T : never;

function wrong(at: string, expected: string): never {
  throw new SandboxError("ERR_SPEC", `${at} in the OCI spec must be ${expected}`);
}

const isObject = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

export const text: Decoder<string> = (value, at) =>
  typeof value === "string" ? value : wrong(at, "a string");

/** A string without NUL characters: it becomes a C string in a system call. */
export const cString: Decoder<string> = (value, at) =>
  typeof value === "string" && !value.includes("\0") ? value : wrong(at, "a string without NUL characters");

export const flag: Decoder<boolean> = (value, at) =>
  typeof value === "boolean" ? value : wrong(at, "true or false");

/** An integer of at most 53 bits. */
export const integer: Decoder<number> = (value, at) =>
  typeof value === "number" && Number.isSafeInteger(value) ? value : wrong(at, "an integer");

/** An integer from 0 to 2^32-1: uid, gid, device number. */
export const uint32: Decoder<number> = (value, at) =>
  typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= 0xffffffff
    ? value
    : wrong(at, "an integer from 0 to 4294967295");

/** A 64-bit integer, signed or unsigned; `parseJson` keeps those beyond 2^53 exact as decimal strings. */
export const int64: Decoder<bigint> = (value, at) => {
  if (typeof value === "number" && Number.isSafeInteger(value)) return BigInt(value);
  if (typeof value === "string" && /^-?\d{1,20}$/.test(value)) {
    const exact = BigInt(value);
    if (exact >= -(2n ** 63n) && exact < 2n ** 64n) return exact;
  }
  return wrong(at, "a 64-bit integer");
};

/** The value, or undefined when it is absent or null. */
export const optional =
  <T>(decoder: Decoder<T>): Decoder<T | undefined> =>
  (value, at) =>
    value === undefined || value === null ? undefined : decoder(value, at);

/** The value, or `fallback` when it is absent or null. */
export const withDefault =
  <T>(decoder: Decoder<T>, fallback: T): Decoder<T> =>
  (value, at) =>
    value === undefined || value === null ? fallback : decoder(value, at);

/** A list; absent counts as empty. */
export const list =
  <T>(item: Decoder<T>): Decoder<readonly T[]> =>
  (value, at) => {
    if (value === undefined || value === null) return [];
    if (!Array.isArray(value)) return wrong(at, "a list");
    return value.map((entry: unknown, index) => item(entry, `${at}[${index}]`));
  };

/** An object with arbitrary keys; absent counts as empty. */
export const mapOf =
  <T>(item: Decoder<T>): Decoder<ReadonlyMap<string, T>> =>
  (value, at) => {
    if (value === undefined || value === null) return new Map();
    if (!isObject(value)) return wrong(at, "an object");
    return new Map(Object.entries(value).map(([key, entry]) => [key, item(entry, `${at}["${key}"]`)]));
  };

type Shape = Readonly<Record<string, Decoder<unknown>>>;

/** An object with known keys; others are ignored, as the OCI spec demands of unknown properties. */
export const object =
  <S extends Shape>(shape: S): Decoder<{ readonly [K in keyof S]: Decoded<S[K]> }> =>
  (value, at) => {
    if (!isObject(value)) return wrong(at, "an object");
    const decoded: Record<string, unknown> = {};
    for (const [key, decoder] of Object.entries(shape)) {
      decoded[key] = decoder(value[key], at === "" ? key : `${at}.${key}`);
    }
    // Each key of S was decoded by its own decoder just above.
    return decoded as { readonly [K in keyof S]: Decoded<S[K]> };
  };

/**
 * JSON.parse that keeps integers beyond 2^53 exact, as decimal strings (see `int64`).
 * @throws ERR_SPEC naming `what`.
 */
export function parseJson(source: string, what: string): unknown {
  try {
    return JSON.parse(/\d{16}/.test(source) ? quoteLargeIntegers(source) : source);
  } catch (error) {
    throw new SandboxError("ERR_SPEC", `${what} is not valid JSON`, { cause: error });
  }
}

/** Puts quotes around integers of 16 digits or more that stand outside of strings. */
function quoteLargeIntegers(source: string): string {
  return source.replace(/"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g, (token) =>
    /^-?\d{16,}$/.test(token) ? `"${token}"` : token,
  );
}
