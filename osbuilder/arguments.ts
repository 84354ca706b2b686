/** The command line of osbuilder: what src/cli reads, and the forms of its own options. */
import { SandboxError } from "../src/base/errors.ts";
import { type Invocation, parseCommandLine as parse, UsageError } from "../src/cli/index.ts";
import { program } from "./commands.ts";

export { Arguments, UsageError } from "../src/cli/index.ts";

/** @throws UsageError when `argv` (without node and script) is not a valid command line. */
export const parseCommandLine = (argv: readonly string[]): Invocation => parse(program, argv);

/** Splits `--with FILE:PATH` at the last colon. @throws UsageError when PATH is not absolute. */
export function parseWith(text: string): { source: string; path: string } {
  const colon = text.lastIndexOf(":");
  const source = text.slice(0, Math.max(colon, 0));
  const path = text.slice(colon + 1);
  if (source === "" || !path.startsWith("/")) {
    throw new UsageError(`--with takes FILE:PATH with an absolute PATH inside the image, not "${text}"`);
  }
  return { source, path };
}

/**
 * SOURCE_DATE_EPOCH (reproducible-builds.org/specs/source-date-epoch), 0 when unset.
 * @throws SandboxError ERR_INVALID_ARGUMENT when it is not a whole number that fits the archive format.
 */
export function parseSourceDateEpoch(text: string | undefined): number {
  if (text === undefined || text === "") return 0;
  const value = /^\d{1,10}$/.test(text) ? Number(text) : Number.NaN;
  if (!(value <= 0xffff_ffff)) {
    throw new SandboxError(
      "ERR_INVALID_ARGUMENT",
      `SOURCE_DATE_EPOCH is "${text}", which is not a whole number of seconds from 0 to 4294967295`,
    );
  }
  return value;
}
