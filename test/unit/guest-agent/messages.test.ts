/** The agent's own protobuf messages against protobuf-es, on every message of agent.proto. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath, pathToFileURL } from "node:url";
import {
  create,
  type DescField,
  type DescMessage,
  fromBinary,
  ScalarType,
  toBinary,
} from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { build } from "esbuild";
import * as own from "../../../guest-agent/src/proto/messages.ts";
import * as generated from "../../../src/gen/caisson/agent/v1/agent_pb.ts";

const schemaPath = fileURLToPath(new URL("../../../src/gen/caisson/agent/v1/agent_pb.ts", import.meta.url));
const pluginPath = fileURLToPath(new URL("../../../guest-agent/schema-plugin.mjs", import.meta.url));

const messages: DescMessage[] = generated.file_caisson_agent_v1_agent.messages;
let directory = "";
let tables: Record<string, own.Schema> = {};

before(async () => {
  directory = mkdtempSync(join(tmpdir(), "caisson-tables-"));
  const { schemaPlugin } = (await import(pathToFileURL(pluginPath).href)) as { schemaPlugin: () => never };
  const outfile = join(directory, "tables.mjs");
  await build({
    entryPoints: [schemaPath],
    outfile,
    bundle: true,
    format: "esm",
    platform: "node",
    plugins: [schemaPlugin()],
  });
  tables = (await import(pathToFileURL(outfile).href)) as Record<string, own.Schema>;
});
after(() => rmSync(directory, { recursive: true, force: true }));

/** A fixed sequence (Numerical Recipes' LCG), so that a failure repeats. */
function sequence(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

function scalar(type: ScalarType, next: (below: number) => number): unknown {
  if (type === ScalarType.STRING) return ["", "a", "ä€😀", "x".repeat(next(300))][next(4)];
  if (type === ScalarType.BYTES) return Uint8Array.from({ length: next(40) }, () => next(256));
  if (type === ScalarType.BOOL) return next(2) === 1;
  if (type === ScalarType.UINT64)
    return [0n, 1n, 2n ** 32n, 2n ** 63n, 2n ** 64n - 1n, BigInt(next(2 ** 31))][next(6)];
  if (type === ScalarType.UINT32) return [0, 1, 2 ** 31, 2 ** 32 - 1, next(2 ** 31)][next(5)];
  throw new Error(`no values for scalar type ${type}`);
}

function single(
  field: DescField & { fieldKind: string },
  next: (below: number) => number,
  depth: number,
): unknown {
  if (field.message !== undefined) return random(field.message, next, depth + 1);
  if (field.enum !== undefined) return next(4);
  if (field.fieldKind === "list")
    return scalar(field.listKind === "scalar" ? field.scalar : ScalarType.STRING, next);
  return scalar(field.scalar ?? ScalarType.STRING, next);
}

function random(message: DescMessage, next: (below: number) => number, depth = 0): Record<string, unknown> {
  const init: Record<string, unknown> = {};
  for (const oneof of message.oneofs) {
    const field = oneof.fields[next(oneof.fields.length + 1)];
    init[oneof.localName] =
      field === undefined
        ? { case: undefined }
        : { case: field.localName, value: single(field, next, depth) };
  }
  for (const field of message.fields) {
    if (field.oneof !== undefined || next(4) === 0) continue;
    if (field.fieldKind === "list") {
      init[field.localName] = Array.from({ length: next(4) }, () => single(field, next, depth));
    } else if (field.fieldKind === "map") {
      const keys = ["", "a", "net.ipv4.x"].slice(0, next(4));
      const entries = keys.map((key) => [key, scalar(field.scalar ?? ScalarType.STRING, next)]);
      init[field.localName] = Object.fromEntries(entries);
    } else {
      init[field.localName] = single(field, next, depth);
    }
  }
  return init;
}

function ownSchema(message: DescMessage): own.Schema {
  const schema = tables[`${message.name}Schema`];
  assert.ok(schema !== undefined, `no table for ${message.name}`);
  return schema;
}

/** Without prototypes and message metadata, so that both implementations compare. */
const plain = (value: unknown): unknown =>
  JSON.parse(
    JSON.stringify(value, (key, item: unknown) => {
      if (key === "$unknown") return undefined;
      if (typeof item === "bigint") return `${item}n`;
      return item instanceof Uint8Array ? { bytes: Buffer.from(item).toString("hex") } : item;
    }),
  );

for (const message of messages) {
  test(`${message.name} is the same on the wire and in memory as with protobuf-es`, () => {
    for (let seed = 1; seed <= 40; seed++) {
      const init = random(message, sequence(seed));
      const theirs = create(message, init as never);
      const bytes = toBinary(message, theirs);
      const ours = own.create(ownSchema(message), init);
      assert.deepEqual(plain(ours), plain(theirs), `create, seed ${seed}`);
      assert.deepEqual(
        Buffer.from(own.toBinary(ownSchema(message), ours)),
        Buffer.from(bytes),
        `encode, seed ${seed}`,
      );
      assert.deepEqual(
        plain(own.fromBinary(ownSchema(message), bytes)),
        plain(fromBinary(message, bytes)),
        `decode, seed ${seed}`,
      );
    }
  });
}

test("fromBinary() skips unknown fields of every wire type and known numbers with another type", () => {
  const writer = new BinaryWriter();
  writer
    .tag(100, WireType.Varint)
    .int32(1)
    .tag(101, WireType.Bit64)
    .fixed64(1n)
    .tag(102, WireType.Bit32)
    .fixed32(1);
  writer.tag(103, WireType.LengthDelimited).string("later").tag(2, WireType.Varint).int32(5);
  writer.tag(1, WireType.LengthDelimited).string("c1");
  const decoded = own.fromBinary(ownSchema(generated.StartProcessRequestSchema), writer.finish());
  assert.deepEqual(plain(decoded), {
    $typeName: "caisson.agent.v1.StartProcessRequest",
    containerId: "c1",
    execId: "",
  });
});

test("a map keeps a key that is the name of an object's own property", () => {
  const schema = ownSchema(generated.CreateSandboxRequestSchema);
  const bytes = own.toBinary(schema, own.create(schema, { sysctls: { ["__proto__"]: "x" } }));
  const { sysctls } = own.fromBinary(schema, bytes) as { sysctls: Record<string, string> };
  assert.deepEqual(Object.entries(sysctls), [["__proto__", "x"]]);
  assert.equal(Object.getPrototypeOf(sysctls), Object.prototype);
});

test("fromBinary() throws, and never hangs, on a message that is cut at any byte", () => {
  const message = generated.CreateSandboxRequestSchema;
  const bytes = toBinary(message, create(message, random(message, sequence(7)) as never));
  for (let length = 0; length < bytes.length; length++) {
    try {
      own.fromBinary(ownSchema(message), bytes.subarray(0, length));
    } catch (error) {
      assert.ok(error instanceof Error);
    }
  }
});

test("a service has the methods of the generated one, in order", () => {
  for (const [name, original] of [
    ["Agent", generated.Agent],
    ["Host", generated.Host],
  ] as const) {
    const table = (tables as unknown as Record<string, ReturnType<typeof own.service>>)[name];
    const names = (methods: readonly { name: string; localName: string; input: { typeName: string } }[]) =>
      methods.map((method) => [method.name, method.localName, method.input.typeName]);
    assert.equal(table?.typeName, original.typeName);
    assert.deepEqual(names(table?.methods ?? []), names(original.methods));
  }
});
