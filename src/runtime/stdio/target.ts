/** What the stdio strings of a Create or Exec request mean (containerd's runtime-v2 documentation, "IO"). */
import { SandboxError } from "../../base/errors.ts";

export type OutputTarget =
  | { readonly kind: "none" }
  | { readonly kind: "fifo" | "file"; readonly path: string }
  | {
      readonly kind: "binary";
      readonly path: string;
      readonly args: readonly string[];
      /** Closing the ready pipe is not enough: a byte must be written to it before (binary-v2). */
      readonly readyByte: boolean;
    };

/**
 * Where output goes: a bare path or `fifo://PATH`, `file://PATH`, `binary://PATH?key=value…`, or nothing.
 * @throws ERR_INVALID_ARGUMENT naming the string.
 */
export function outputTarget(text: string): OutputTarget {
  if (text === "") return { kind: "none" };
  if (text.startsWith("/")) return { kind: "fifo", path: text };
  const url = URL.canParse(text) ? new URL(text) : undefined;
  const path = url === undefined ? "" : decodedPath(url);
  if (url !== undefined && url.host === "" && path.startsWith("/")) {
    switch (url.protocol) {
      case "fifo:":
        return { kind: "fifo", path };
      case "file:":
        return { kind: "file", path };
      case "binary:":
      case "binary-v2:":
        return { kind: "binary", path, args: argumentsOf(url), readyByte: url.protocol === "binary-v2:" };
    }
  }
  throw new SandboxError(
    "ERR_INVALID_ARGUMENT",
    `stdio "${text}" is neither an absolute path nor a fifo://, file:// or binary:// URI with one`,
  );
}

/** The FIFO that input comes from; undefined for none. @throws ERR_INVALID_ARGUMENT naming the string. */
export function inputPath(text: string): string | undefined {
  const target = outputTarget(text);
  if (target.kind === "none") return undefined;
  if (target.kind === "fifo") return target.path;
  throw new SandboxError("ERR_INVALID_ARGUMENT", `stdin "${text}" is not a named pipe`);
}

function decodedPath(url: URL): string {
  try {
    return decodeURIComponent(url.pathname);
  } catch {
    return "";
  }
}

/** Each key of the query, followed by its first value, which may be empty. */
function argumentsOf(url: URL): string[] {
  const first = new Map<string, string>();
  for (const [key, value] of url.searchParams) if (!first.has(key)) first.set(key, value);
  return [...first].flat();
}
