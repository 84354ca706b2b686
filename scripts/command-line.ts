/** What the commands of this repository have in common: numbers among their options, and how they fail. */

import { UsageError } from "../src/cli/usage-error.ts";

export { UsageError };

/** The value of an option that takes a number. @throws UsageError */
export function wholeNumber(option: string, text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1)
    throw new UsageError(`--${option} takes a whole number from 1 on`);
  return value;
}

/** Says why the command `name` failed. @returns its exit status: 2 for a wrong command line, 1 for anything else */
export function failure(name: string, error: unknown, say: (text: string) => void = console.error): number {
  say(`${name}: ${error instanceof Error ? error.message : error}`);
  return error instanceof UsageError || isOfParseArgs(error) ? 2 : 1;
}

/** Errors of node:util's parseArgs have codes of their own. */
function isOfParseArgs(error: unknown): boolean {
  const code = error instanceof Error && "code" in error ? String(error.code) : "";
  return code.startsWith("ERR_PARSE_ARGS_");
}
