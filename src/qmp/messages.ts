/**
 * What QEMU says on a QMP connection (docs/interop/qmp-spec.rst in QEMU's sources).
 *
 * Primer: the server sends JSON objects, each ended by CR LF. First a greeting `{"QMP": {version, capabilities}}`; the
 * client answers with the command `qmp_capabilities`. From then on the client sends
 * `{"execute": NAME, "arguments": {…}, "id": ID}` and the server answers `{"return": VALUE, "id": ID}` or
 * `{"error": {"class", "desc"}, "id": ID}`; between answers, in any order, come events
 * `{"event": NAME, "data": {…}, "timestamp": {"seconds", "microseconds"}}`.
 */
import { SandboxError } from "../base/errors.ts";

/** Longest message taken from QEMU. The largest known answer, query-qmp-schema, has about 300 KB. */
export const MESSAGE_LIMIT_BYTES = 4 * 1024 * 1024;

export type JsonObject = { readonly [key: string]: unknown };

export interface QmpVersion {
  readonly major: number;
  readonly minor: number;
  readonly micro: number;
  /** The distributor's version text; may be empty. */
  readonly package: string;
}

/** An event as QEMU sent it. */
export interface QmpEvent<Data extends JsonObject = JsonObject> {
  readonly event: string;
  readonly data: Data;
  /** Milliseconds since the Unix epoch; NaN when QEMU could not tell. */
  readonly timestampMs: number;
}

export type QmpMessage =
  | { readonly kind: "greeting"; readonly version: QmpVersion; readonly capabilities: readonly string[] }
  | { readonly kind: "return"; readonly id: unknown; readonly value: unknown }
  | {
      readonly kind: "error";
      readonly id: unknown;
      readonly errorClass: string;
      readonly description: string;
    }
  | { readonly kind: "event"; readonly event: QmpEvent };

/** Decodes one line. @throws SandboxError ERR_PROTOCOL when it is not a QMP message. */
export function parseMessage(line: string): QmpMessage {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (cause) {
    throw new SandboxError("ERR_PROTOCOL", `QEMU sent something that is not JSON: ${excerpt(line)}`, {
      cause,
    });
  }
  if (isObject(value)) {
    if (isObject(value.QMP)) return parseGreeting(value.QMP);
    if (typeof value.event === "string") return parseEvent(value.event, value);
    if (isObject(value.error)) return parseError(value.error, value.id);
    if ("return" in value) return { kind: "return", id: value.id, value: value.return };
  }
  throw new SandboxError("ERR_PROTOCOL", `QEMU sent an unknown kind of QMP message: ${excerpt(line)}`);
}

function parseGreeting(greeting: JsonObject): QmpMessage {
  const version = isObject(greeting.version) ? greeting.version : {};
  const qemu = isObject(version.qemu) ? version.qemu : {};
  const number = (value: unknown) => (typeof value === "number" ? value : 0);
  return {
    kind: "greeting",
    version: {
      major: number(qemu.major),
      minor: number(qemu.minor),
      micro: number(qemu.micro),
      package: typeof version.package === "string" ? version.package : "",
    },
    capabilities: Array.isArray(greeting.capabilities)
      ? greeting.capabilities.filter((name): name is string => typeof name === "string")
      : [],
  };
}

function parseEvent(name: string, message: JsonObject): QmpMessage {
  const at = isObject(message.timestamp) ? message.timestamp : {};
  const known = typeof at.seconds === "number" && typeof at.microseconds === "number" && at.seconds >= 0;
  return {
    kind: "event",
    event: {
      event: name,
      data: isObject(message.data) ? message.data : {},
      timestampMs: known ? Number(at.seconds) * 1000 + Number(at.microseconds) / 1000 : Number.NaN,
    },
  };
}

function parseError(error: JsonObject, id: unknown): QmpMessage {
  return {
    kind: "error",
    id,
    errorClass: typeof error.class === "string" ? error.class : "GenericError",
    description: typeof error.desc === "string" ? error.desc : "no description",
  };
}

function isObject(value: unknown): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function excerpt(line: string): string {
  return JSON.stringify(line.length > 80 ? `${line.slice(0, 80)}…` : line);
}

/** Cuts the byte stream into lines without their CR LF; empty lines are skipped. */
export class MessageSplitter {
  readonly #limit: number;
  readonly #decoder = new TextDecoder();
  /** The beginning of the line; grows by doubling, however small the pieces are in which a line comes. */
  #held = new Uint8Array(0);
  #length = 0;

  constructor(limit: number = MESSAGE_LIMIT_BYTES) {
    this.#limit = limit;
  }

  /** The lines that `chunk` completes. @throws SandboxError ERR_FRAME_TOO_LARGE when a line exceeds the limit. */
  push(chunk: Uint8Array): string[] {
    const lines: string[] = [];
    let start = 0;
    for (let end = chunk.indexOf(0x0a); end !== -1; end = chunk.indexOf(0x0a, start)) {
      const line = this.#take(chunk.subarray(start, end)).trim();
      if (line !== "") lines.push(line);
      start = end + 1;
    }
    this.#keep(chunk.subarray(start));
    return lines;
  }

  #keep(part: Uint8Array): void {
    if (part.length === 0) return;
    const length = this.#checkedLength(part);
    if (length > this.#held.length) {
      const larger = new Uint8Array(Math.min(this.#limit, Math.max(length, 2 * this.#held.length)));
      larger.set(this.#held.subarray(0, this.#length));
      this.#held = larger;
    }
    this.#held.set(part, this.#length);
    this.#length = length;
  }

  /** The line that ends with `part`. */
  #take(part: Uint8Array): string {
    this.#checkedLength(part);
    if (this.#length === 0) return this.#decoder.decode(part);
    this.#keep(part);
    const text = this.#decoder.decode(this.#held.subarray(0, this.#length));
    this.#held = new Uint8Array(0);
    this.#length = 0;
    return text;
  }

  #checkedLength(part: Uint8Array): number {
    const length = this.#length + part.length;
    if (length > this.#limit) {
      throw new SandboxError(
        "ERR_FRAME_TOO_LARGE",
        `QEMU sent a QMP message of more than ${this.#limit} bytes`,
      );
    }
    return length;
  }
}
