/** Runs a distribution's compression program over bytes in memory. */
import { execa } from "execa";
import { errnoOf, SandboxError } from "../src/base/errors.ts";

/** The longest that one program may take; the largest input, a kernel in xz, takes seconds. */
const LIMIT_MS = 120_000;
/** The most that one program may put out; an uncompressed kernel is about 60 MB. */
const MAX_OUTPUT_BYTES = 1 << 30;

export interface Filter {
  readonly program: string;
  readonly args: readonly string[];
  /** The Debian package to install when the program is missing. */
  readonly debianPackage: string;
}

/**
 * What `filter` makes of `input`.
 * @param what names the input in errors.
 * @throws SandboxError ERR_HOST when the program is not installed, ERR_INVALID_ARGUMENT when it refuses the input,
 * ERR_DEADLINE after two minutes, ERR_CANCELED when `signal` aborts.
 */
export async function runFilter(
  filter: Filter,
  input: Uint8Array,
  what: string,
  signal?: AbortSignal,
): Promise<Uint8Array> {
  const result = await execa(filter.program, filter.args, {
    input,
    encoding: "buffer",
    maxBuffer: MAX_OUTPUT_BYTES,
    timeout: LIMIT_MS,
    reject: false,
    stripFinalNewline: false,
    env: { LC_ALL: "C" },
    ...(signal === undefined ? {} : { cancelSignal: signal }),
  });
  if (!result.failed) return result.stdout;
  const { program } = filter;
  if (result.isCanceled) throw new SandboxError("ERR_CANCELED", `${program} over ${what} was canceled`);
  if (result.timedOut) {
    throw new SandboxError("ERR_DEADLINE", `${program} over ${what} took longer than ${LIMIT_MS} ms`);
  }
  if (errnoOf(result) === "ENOENT") {
    throw new SandboxError(
      "ERR_HOST",
      `${what} needs the program ${program}, which is not installed: apt install ${filter.debianPackage}`,
    );
  }
  const said = Buffer.from(result.stderr).toString().trim().split("\n")[0] ?? "";
  throw new SandboxError("ERR_INVALID_ARGUMENT", `${program} cannot process ${what}: ${said}`, {
    cause: result,
  });
}
