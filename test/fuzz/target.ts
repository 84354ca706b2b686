/** What is fuzzed: one decoder, its corpus and what counts as a refusal. */
import { SandboxError } from "../../src/base/errors.ts";
import type { Random } from "./random.ts";

export interface Target {
  /** Also the name of its corpus directory. */
  readonly name: string;
  /** What it decodes and from whom it comes; for the help text. */
  readonly about: string;
  /** How its inputs are changed. */
  readonly format: "bytes" | "text" | "json";
  /** Called once, ahead of all inputs, for what takes time. */
  readonly prepare?: () => Promise<unknown>;
  /**
   * Decodes `input`, checks what must hold of the result. A refusal is thrown.
   * @returns words for what kind of result it was: an input that gives new ones is kept and changed further.
   */
  run(input: Uint8Array, random: Random): string | Promise<string>;
  /** Whether another error than a SandboxError is this decoder's way to refuse. */
  readonly refuses?: (error: unknown) => boolean;
}

/** What must hold and does not. */
export class Violation extends Error {
  override readonly name = "Violation";
}

/** @throws Violation */
export function must(condition: boolean, what: string): asserts condition {
  if (!condition) throw new Violation(what);
}

/** Errors by which every decoder may refuse: ours, with a text, except the code that stands for a bug of ours. */
export function isRefusal(error: unknown, target: Target): boolean {
  if (error instanceof SandboxError) return error.code !== "ERR_INTERNAL" && error.message !== "";
  return target.refuses?.(error) === true;
}

/** Words for a refusal, without what differs from input to input. */
export function refusalKind(error: unknown): string {
  const { message = "", code = "" } = error as { message?: string; code?: string };
  const words = message.slice(0, 200).replace(/"[^"]*"|'[^']*'|\S*[\d/\\%]\S*/g, "#");
  return `refused ${code} ${words}`;
}

/** The shape of a value: its keys and the types and rough sizes below, three levels deep. */
export function shapeOf(value: unknown, depth = 3): string {
  if (Array.isArray(value))
    return `[${sizeClass(value.length)}${depth > 0 ? shapeOf(value[0], depth - 1) : ""}]`;
  if (value instanceof Uint8Array) return `b${sizeClass(value.length)}`;
  if (typeof value === "object" && value !== null) {
    if (depth === 0) return "{}";
    return `{${Object.entries(value)
      .map(([key, inner]) => `${key.slice(0, 20)}${shapeOf(inner, depth - 1)}`)
      .slice(0, 20)
      .join()}}`;
  }
  if (typeof value === "number") return value < 0 ? "-" : `n${sizeClass(value)}`;
  if (typeof value === "string") return `s${sizeClass(value.length)}`;
  return typeof value === "boolean" ? String(value) : typeof value;
}

const sizeClass = (size: number): string =>
  Number.isFinite(size) ? `${Math.ceil(Math.log2(size + 1) / 4)}` : "!";

export const textOf = (input: Uint8Array): string => new TextDecoder().decode(input);

/** Whether there is something that moves a terminal's cursor; tabs are allowed, and line ends if `allowed` has one. */
export function hasControl(text: string, allowed = "\t"): boolean {
  for (const character of text) {
    const point = character.codePointAt(0) ?? 0;
    if (allowed.includes(character)) continue;
    if (point < 0x20 || (point >= 0x7f && point < 0xa0)) return true;
  }
  return false;
}

/**
 * An input that begins with a name: the line of the name, then the rest. A name that is none of `names` (it was changed)
 * stands for one of them all the same.
 */
export function namedInput(input: Uint8Array, names: readonly string[]): { name: string; rest: Uint8Array } {
  const end = input.indexOf(0x0a);
  const word = textOf(input.subarray(0, Math.max(end, 0)));
  const sum = word.split("").reduce((total, character) => total + character.charCodeAt(0), 0);
  return {
    name: names.includes(word) ? word : (names[sum % names.length] ?? ""),
    rest: input.subarray(end + 1),
  };
}
