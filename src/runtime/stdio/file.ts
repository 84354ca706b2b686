/** Output into a file: appended, made when absent, never truncated. Two streams may name the same file. */
import { mkdir, open } from "node:fs/promises";
import path from "node:path";
import { SandboxError } from "../../base/errors.ts";
import { timeoutMs } from "../../base/timeouts.ts";
import type { OutputSink } from "./endpoints.ts";

/** Modes as containerd's own shim makes them. */
const FILE_MODE = 0o644;
const DIRECTORY_MODE = 0o755;

/** @throws ERR_INVALID_ARGUMENT naming the path. The caller closes the sink. */
export async function openFileSink(file: string): Promise<OutputSink> {
  const handle = await openForAppending(file);
  let closing: Promise<void> | undefined;
  let last = Promise.resolve();
  // The descriptor goes only after the write that is under way: its number could be another file's by then.
  const close = (): Promise<void> => {
    closing ??= last.then(() => handle.close()).catch(() => undefined);
    return closing;
  };
  let released = () => {};
  const whenReleased = new Promise<void>((resolve) => {
    released = resolve;
  });
  return {
    write: (bytes) => {
      if (closing !== undefined) {
        return Promise.reject(new SandboxError("ERR_UNAVAILABLE", `the log file ${file} was closed`));
      }
      const written = handle.appendFile(bytes);
      last = written.catch(() => undefined);
      return written;
    },
    finish: () => close().then(released),
    patienceMs: timeoutMs("stdioDrain"),
    close: () => void close().then(released),
    released: whenReleased,
  };
}

async function openForAppending(file: string) {
  try {
    await mkdir(path.dirname(file), { recursive: true, mode: DIRECTORY_MODE });
    return await open(file, "a", FILE_MODE);
  } catch (error) {
    throw new SandboxError("ERR_INVALID_ARGUMENT", `cannot open the log file ${file}`, { cause: error });
  }
}
