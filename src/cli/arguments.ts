/** Options and operands of one command, as given. */
import { UsageError } from "./usage-error.ts";

export class Arguments {
  readonly operands: readonly string[];
  /** The command line that followed the operands. */
  readonly rest: readonly string[];
  readonly #values: Readonly<Record<string, unknown>>;

  constructor(
    values: Readonly<Record<string, unknown>>,
    operands: readonly string[],
    rest: readonly string[] = [],
  ) {
    this.#values = values;
    this.operands = operands;
    this.rest = rest;
  }

  flag(name: string): boolean {
    return this.#values[name] === true;
  }

  /** The value of an option, or undefined. @throws UsageError when it is empty. */
  value(name: string): string | undefined {
    const value = this.#values[name];
    if (value === "") throw new UsageError(`--${name} needs a value`);
    return typeof value === "string" ? value : undefined;
  }

  values(name: string): readonly string[] {
    const value = this.#values[name];
    return Array.isArray(value) ? (value as string[]) : [];
  }

  /** One of `allowed`, or undefined when the option was not given. @throws UsageError otherwise. */
  choice<T extends string>(name: string, allowed: readonly T[]): T | undefined {
    const value = this.value(name);
    if (value === undefined) return undefined;
    const found = allowed.find((candidate) => candidate === value);
    if (found === undefined) throw new UsageError(`--${name} takes ${allowed.join(", ")}, not "${value}"`);
    return found;
  }

  /** A number from `min` to `max`, or `fallback` when the option was not given. @throws UsageError otherwise. */
  number(name: string, fallback: number, min: number, max: number): number {
    const value = this.value(name);
    if (value === undefined) return fallback;
    const number = /^\d+(\.\d+)?$/.test(value) ? Number(value) : Number.NaN;
    if (!(number >= min && number <= max))
      throw new UsageError(`--${name} takes a number from ${min} to ${max}, not "${value}"`);
    return number;
  }
}
