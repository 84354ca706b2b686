/**
 * Takes secrets out of what leaves the host in a bug report: values of environment variables, annotations that are not
 * ours or the container engines', credentials in configuration files and command lines.
 */
import { ANNOTATION_PREFIX, KATA_ANNOTATION_PREFIX } from "../config/index.ts";

export const REDACTED = "<redacted>";

/** Annotations that say how a sandbox came to be, and nothing of the user's. */
const KEPT_ANNOTATIONS = [
  ANNOTATION_PREFIX,
  KATA_ANNOTATION_PREFIX,
  "io.kubernetes.cri.",
  "io.kubernetes.cri-o.",
  "io.kubernetes.pod.",
  "io.containerd.",
];
/** Of those, the ones that carry a copy of the user's own annotations or environment. */
const DROPPED_ANNOTATIONS = /Annotations|Labels|last-applied|Env/;
/** Names under which configuration files keep credentials. */
const SECRET_KEY = /pass(word|wd|phrase)?|secret|token|auth|credential|username|private|api_?key/i;

/** "NAME=value" becomes "NAME=<redacted>". Pure. */
export const redactVariable = (entry: string): string => entry.replace(/=.*$/s, `=${REDACTED}`);

/** An OCI spec (config.json). Pure. */
export function redactSpec(spec: unknown): unknown {
  if (!isRecord(spec)) return spec;
  const process = isRecord(spec.process) ? redactProcess(spec.process) : spec.process;
  const annotations = isRecord(spec.annotations) ? redactAnnotations(spec.annotations) : spec.annotations;
  return {
    ...spec,
    ...(process !== undefined && { process }),
    ...(annotations !== undefined && { annotations }),
  };
}

function redactProcess(process: Record<string, unknown>): Record<string, unknown> {
  if (!Array.isArray(process.env)) return process;
  return { ...process, env: process.env.map((entry) => redactVariable(String(entry))) };
}

function redactAnnotations(annotations: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(annotations).map(([name, value]) => {
      const kept =
        KEPT_ANNOTATIONS.some((prefix) => name.startsWith(prefix)) && !DROPPED_ANNOTATIONS.test(name);
      return [name, kept ? value : REDACTED];
    }),
  );
}

/** A TOML or YAML text, line by line: the value of each key whose name speaks of a secret. Pure. */
export function redactConfigText(text: string): string {
  return text
    .split("\n")
    .map((line) => {
      const found = /^(\s*(?:- )?"?([A-Za-z0-9_.-]+)"?\s*[=:]\s*)(\S.*)$/.exec(line);
      if (found === null || !SECRET_KEY.test(found[2] ?? "") || /^[[{]\s*$/.test(found[3] ?? ""))
        return redactUrl(line);
      return `${found[1]}${REDACTED}`;
    })
    .join("\n");
}

/** "https://user:secret@host" keeps its host. Pure. */
export const redactUrl = (text: string): string =>
  text.replace(/(\b\w+:\/\/)[^/\s:@]+(:[^/\s@]*)?@/g, `$1${REDACTED}@`);

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
