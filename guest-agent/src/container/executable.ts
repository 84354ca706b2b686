/** Finding the program to execute, with the wording that clients of container runtimes look for. Pure. */
import { SandboxError } from "../../../src/base/errors.ts";
import { S_IFDIR, S_IFMT } from "../linux.ts";

/** What stat(2) says of a path: its mode, or an errno name. */
export type ModeOf = (path: string) => number | string;

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
 * The path to execute for `command`: itself when it holds a slash, otherwise the first executable file of PATH.
 * @param pathVariable the value of PATH in the process's environment.
 * @throws ERR_START_PROCESS: `exec: "foo": executable file not found in $PATH` and the like.
 */
export function findExecutable(command: string, pathVariable: string | undefined, modeOf: ModeOf): string {
  if (command === "") throw startFailure('exec: "": executable file not found in $PATH');
  if (command.includes("/")) {
    const problem = whyNotExecutable(command, modeOf);
    if (problem === undefined) return command;
    const stated = problem === "ENOENT" || problem === "ENOTDIR" ? `stat ${command}: ` : "";
    throw startFailure(`exec: "${command}": ${stated}${reasonText(problem)}`);
  }
  for (const directory of (pathVariable ?? DEFAULT_PATH).split(":")) {
    const candidate = `${directory === "" ? "." : directory}/${command}`;
    if (whyNotExecutable(candidate, modeOf) === undefined) return candidate;
  }
  throw startFailure(`exec: "${command}": executable file not found in $PATH`);
}

function whyNotExecutable(path: string, modeOf: ModeOf): string | undefined {
  const mode = modeOf(path);
  if (typeof mode === "string") return mode;
  if ((mode & S_IFMT) === S_IFDIR) return "EISDIR";
  return (mode & 0o111) === 0 ? "EACCES" : undefined;
}

/** The value of a variable in an environment list; the last one counts. */
export function environmentValue(env: readonly string[], name: string): string | undefined {
  return env.findLast((entry) => entry.startsWith(`${name}=`))?.slice(name.length + 1);
}

/** The home directory that a passwd(5) text gives `uid`; undefined when it has no such user. */
export function homeDirectory(passwd: string, uid: number): string | undefined {
  for (const line of passwd.split("\n")) {
    const fields = line.split(":");
    if (fields.length >= 6 && fields[2] === String(uid) && fields[5] !== "") return fields[5];
  }
  return undefined;
}
