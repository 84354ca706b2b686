/**
 * The command line that containerd and CRI-O give a shim. It is Go's flag syntax: `-name value`, `--name value`,
 * `-name=value`, booleans without a value, then one action word. (containerd pkg/shim, `parseFlags`.)
 */
import { SandboxError } from "../base/errors.ts";

export interface ShimArguments {
  readonly namespace: string;
  readonly id: string;
  readonly address: string;
  readonly publishBinary: string;
  readonly bundle: string;
  /** The ttrpc socket, from `start` to its server; empty for the usual place. */
  readonly socket: string;
  /** The configuration file of the runtime options, from `start` to its server; empty for the default search. */
  readonly config: string;
  readonly debug: boolean;
  readonly version: boolean;
  readonly info: boolean;
  /** "start", "delete", or "" to serve. */
  readonly action: string;
}

const VALUE_FLAGS = new Set([
  "namespace",
  "id",
  "address",
  "publish-binary",
  "bundle",
  "socket",
  "debug-socket",
  "config",
]);
const BOOLEAN_FLAGS = new Set(["debug", "v", "version", "info"]);

/** @throws ERR_INVALID_ARGUMENT naming the flag. */
export function parseShimArguments(argv: readonly string[]): ShimArguments {
  const values = new Map<string, string>();
  let index = 0;
  for (; index < argv.length; index++) {
    const word = argv[index] ?? "";
    if (!word.startsWith("-") || word === "-") break;
    const [name = "", inline] = splitOnce(word.replace(/^--?/, ""), "=");
    if (BOOLEAN_FLAGS.has(name)) {
      values.set(name, inline ?? "true");
    } else if (VALUE_FLAGS.has(name)) {
      const value = inline ?? argv[++index];
      if (value === undefined) throw new SandboxError("ERR_INVALID_ARGUMENT", `flag -${name} needs a value`);
      values.set(name, value);
    } else {
      throw new SandboxError(
        "ERR_INVALID_ARGUMENT",
        `unknown flag ${word}; this program is run by containerd or CRI-O`,
      );
    }
  }
  const flag = (name: string): boolean => values.get(name) === "true" || values.get(name) === "1";
  return {
    namespace: values.get("namespace") ?? "",
    id: values.get("id") ?? "",
    address: values.get("address") ?? "",
    publishBinary: values.get("publish-binary") ?? "",
    bundle: values.get("bundle") ?? "",
    socket: values.get("socket") ?? "",
    config: values.get("config") ?? "",
    debug: flag("debug"),
    version: flag("v") || flag("version"),
    info: flag("info"),
    action: argv[index] ?? "",
  };
}

function splitOnce(text: string, separator: string): [string, string | undefined] {
  const at = text.indexOf(separator);
  return at < 0 ? [text, undefined] : [text.slice(0, at), text.slice(at + 1)];
}

/**
 * The ids that containerd allows (identifiers.Validate): they become directory and socket names here, so nothing else
 * is let through. @throws ERR_INVALID_ARGUMENT
 */
export function checkIdentifier(what: string, id: string): string {
  if (!/^[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*$/.test(id) || id.length > 76) {
    throw new SandboxError("ERR_INVALID_ARGUMENT", `${what} "${id}" is not a valid identifier`);
  }
  return id;
}
