/** Where the program to execute may be, and the wording that clients of container runtimes look for. Pure. */
import { SandboxError } from "../../../src/base/errors.ts";

/** Where commands are looked for when the environment has no PATH: confstr(_CS_PATH) of POSIX systems. */
const DEFAULT_PATH = "/bin:/usr/bin";

const REASONS: Readonly<Record<string, string>> = {
  ENOENT: "no such file or directory",
  ENOTDIR: "not a directory",
  EACCES: "permission denied",
  EPERM: "operation not permitted",
  ELOOP: "too many levels of symbolic links",
  ENOEXEC: "exec format error",
  ENAMETOOLONG: "file name too long",
  ETXTBSY: "text file busy",
  E2BIG: "argument list too long",
  ENOMEM: "cannot allocate memory",
  EISDIR: "is a directory",
};

/** The text for an errno name as Go programs print it; the name itself where none is known. */
export function reasonText(errno: string): string {
  return REASONS[errno] ?? errno;
}

export const startFailure = (message: string, cause?: unknown): SandboxError =>
  new SandboxError("ERR_START_PROCESS", message, { cause });

/**
 * The paths of which the first executable file is the program: the command itself when it holds a slash, otherwise one in
 * each directory of PATH.
 * @param pathVariable the value of PATH in the process's environment.
 */
export function candidates(command: string, pathVariable: string | undefined): readonly string[] {
  if (command === "") return [];
  if (command.includes("/")) return [command];
  return (pathVariable ?? DEFAULT_PATH)
    .split(":")
    .map((directory) => `${directory === "" ? "." : directory}/${command}`);
}

/** Why there is no program: `exec: "foo": executable file not found in $PATH` and the like. */
export function notFound(command: string, errno: string): string {
  if (!command.includes("/")) return `exec: "${command}": executable file not found in $PATH`;
  const stated = errno === "ENOENT" || errno === "ENOTDIR" ? `stat ${command}: ` : "";
  return `exec: "${command}": ${stated}${reasonText(errno)}`;
}

/** The value of a variable in an environment list, whose entries have no NUL; the last one counts. */
export function environmentValue(env: readonly string[], name: string): string | undefined {
  // One text to search: to look at each entry costs the interpreter several times as much.
  const all = `\0${env.join("\0")}\0`;
  const start = `\0${name}=`;
  const at = all.lastIndexOf(start);
  return at < 0 ? undefined : all.slice(at + start.length, all.indexOf("\0", at + 1));
}
