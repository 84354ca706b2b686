/** Runs a distribution's compression program over bytes in memory. */
import { randomBytes } from "node:crypto";
import { type FileHandle, open, unlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { execa } from "execa";
import { errnoOf, SandboxError } from "../src/base/errors.ts";

/** The longest that one program may take; the largest input, a kernel in xz, takes seconds. */
const LIMIT_MS = 120_000;

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
  // A file, not a pipe: a kernel in pieces of 64 kB costs more than its decompression.
  const output = await scratchFile();
  try {
    const result = await execa(filter.program, filter.args, {
      input,
      stdout: output.fd as 3, // execa hands any descriptor on; its types stop at 9
      timeout: LIMIT_MS,
      reject: false,
      env: { LC_ALL: "C" },
      ...(signal === undefined ? {} : { cancelSignal: signal }),
    });
    if (result.failed) throw failure(filter, what, result);
    return await content(output);
  } finally {
    await output.close();
  }
}

/** An empty file without a name. The caller closes it. */
async function scratchFile(): Promise<FileHandle> {
  const path = join(tmpdir(), `osbuilder-${randomBytes(8).toString("hex")}`);
  const file = await open(path, "wx+", 0o600);
  await unlink(path);
  return file;
}

/** All bytes of a file, wherever its position is. */
async function content(file: FileHandle): Promise<Buffer> {
  const { size } = await file.stat();
  const bytes = Buffer.allocUnsafe(size);
  for (let at = 0; at < size; ) {
    const { bytesRead } = await file.read(bytes, at, size - at, at);
    if (bytesRead === 0) throw new SandboxError("ERR_INTERNAL", "a scratch file became shorter");
    at += bytesRead;
  }
  return bytes;
}

/** What execa tells of a program that failed. */
interface Failed {
  readonly isCanceled: boolean;
  readonly timedOut: boolean;
  readonly stderr: string;
}

function failure(filter: Filter, what: string, result: Failed): SandboxError {
  const { program } = filter;
  if (result.isCanceled) return new SandboxError("ERR_CANCELED", `${program} over ${what} was canceled`);
  if (result.timedOut) {
    return new SandboxError("ERR_DEADLINE", `${program} over ${what} took longer than ${LIMIT_MS} ms`);
  }
  if (errnoOf(result) === "ENOENT") {
    return new SandboxError(
      "ERR_HOST",
      `${what} needs the program ${program}, which is not installed: apt install ${filter.debianPackage}`,
    );
  }
  const said = result.stderr.trim().split("\n")[0] ?? "";
  if (said.includes("No space left on device")) {
    return new SandboxError("ERR_EXHAUSTED", `${tmpdir()} is full: ${program} cannot process ${what}`);
  }
  return new SandboxError("ERR_INVALID_ARGUMENT", `${program} cannot process ${what}: ${said}`, {
    cause: result,
  });
}
