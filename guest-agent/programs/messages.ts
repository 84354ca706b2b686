/**
 * A program for the agent's runtime that creates, encodes and decodes messages as the agent does: a request per line of standard
 * input, an answer per line of standard output. test/harness/guest-messages.ts builds and runs it, and explains both.
 */
import "../src/web-globals.ts";

import * as sys from "sys";
import * as generated from "../../src/gen/caisson/agent/v1/agent_pb.ts";
import { readRequest, readResponse, writeRequest, writeResponse } from "../src/proto/envelope-codec.ts";
import { create, fromBinary, type Schema, toBinary } from "../src/proto/messages.ts";

interface Request {
  readonly op: string;
  readonly message: string;
  readonly value: unknown;
}

const hex = (bytes: Uint8Array): string =>
  Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
const unhex = (text: string): Uint8Array =>
  Uint8Array.from(text.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));

/** What JSON does not have: { $big: "123" }, { $bytes: "00ff" }. */
const tagged = (_: string, value: unknown): unknown => {
  if (typeof value === "bigint") return { $big: `${value}` };
  return value instanceof Uint8Array ? { $bytes: hex(value) } : value;
};
const untagged = (_: string, value: unknown): unknown => {
  const { $big, $bytes } = (value ?? {}) as { readonly $big?: string; readonly $bytes?: string };
  if ($big !== undefined) return BigInt($big);
  return $bytes === undefined ? value : unhex($bytes);
};

/** An offset, so that views of a part of a buffer are read as well. */
const within = (bytes: Uint8Array): Uint8Array => {
  const larger = new Uint8Array(bytes.length + 8).fill(0xff);
  larger.set(bytes, 3);
  return larger.subarray(3, 3 + bytes.length);
};

function schemaOf(name: string): Schema {
  const schema = (generated as unknown as Record<string, Schema>)[`${name}Schema`];
  if (schema === undefined) throw new Error(`no table of ${name}`);
  return schema;
}

const operations: Readonly<Record<string, (request: Request) => unknown>> = {
  create: ({ message, value }) => create(schemaOf(message), value as object),
  encode: ({ message, value }) => toBinary(schemaOf(message), value as object),
  decode: ({ message, value }) => fromBinary(schemaOf(message), within(value as Uint8Array)),
  service: ({ message }) =>
    (generated as unknown as Record<string, { methods: readonly { input: Schema; output: Schema }[] }>)[
      message
    ]?.methods.map((method) => ({
      ...method,
      input: method.input.typeName,
      output: method.output.typeName,
    })),
  /** What a decoded map is, for what JSON would lose. */
  map({ message, value }) {
    const { sysctls } = fromBinary(schemaOf(message), value as Uint8Array);
    const plain = Object.getPrototypeOf(sysctls) === Object.prototype;
    return { plain, entries: Object.entries(sysctls as object) };
  },
  writeRequest: ({ value }) => writeRequest(value as never, 10),
  writeResponse: ({ value }) => writeResponse(value as never, 10),
  readRequest: ({ value }) => readRequest(within(value as Uint8Array), 1024),
  readResponse: ({ value }) => readResponse(within(value as Uint8Array)),
};

function answer(line: string): string {
  try {
    const request = JSON.parse(line, untagged) as Request;
    return JSON.stringify({ value: operations[request.op]?.(request) }, tagged);
  } catch (error) {
    const { name, message } = error as Error;
    return JSON.stringify({ error: name, message });
  }
}

function writeAll(text: string): void {
  const bytes = new Uint8Array(sys.encodeUtf8(text));
  for (let at = 0; at < bytes.length; ) at += sys.write(1, bytes, at);
}

const buffer = new Uint8Array(1 << 16);
let rest = "";
for (let got = sys.read(0, buffer); got > 0; got = sys.read(0, buffer)) {
  const lines = (rest + sys.decodeUtf8(buffer, 0, got)).split("\n");
  rest = lines.pop() ?? "";
  writeAll(lines.map((line) => `${answer(line)}\n`).join(""));
}
sys.exit(0);
