// esbuild plugin: replaces protobuf-es' generated descriptors and its runtime by tables (explained in src/proto/messages.ts) and
// native code. The agent then parses no descriptor when it starts.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const runtime = join(here, "src/proto/messages.ts");
const envelopeCodec = join(here, "src/proto/envelope-codec.ts");

/** Field types that messages.ts knows (FieldDescriptorProto.Type); ScalarType has the same numbers. */
const supported = new Set([4, 5, 8, 9, 12, 13]);
const TYPE_MESSAGE = 11;
const TYPE_ENUM = 14;
const rules = { single: 0, list: 1, map: 2 };

/** Loads a generated TypeScript module with its real descriptors, in this process. */
async function loadGenerated(path) {
  const directory = mkdtempSync(join(tmpdir(), "caisson-schema-"));
  try {
    const outfile = join(directory, "schema.mjs");
    await build({
      entryPoints: [path],
      outfile,
      bundle: true,
      format: "esm",
      platform: "node",
      logLevel: "warning",
    });
    return await import(pathToFileURL(outfile).href);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

function fieldRow(field, messages) {
  const fail = (what) => {
    throw new Error(
      `${field.parent.typeName}.${field.name}: ${what} is not supported by src/proto/messages.ts`,
    );
  };
  const kind =
    field.fieldKind === "list" ? field.listKind : field.fieldKind === "map" ? field.mapKind : field.fieldKind;
  const rule = rules[field.fieldKind] ?? rules.single;
  if (field.proto3Optional === true || field.proto.proto3Optional) fail("optional");
  if (field.fieldKind === "map" && field.mapKey !== 9) fail("a map key that is no string");
  if (field.fieldKind === "map" && kind === "message") fail("a map of messages");
  if (kind === "message") {
    const index = indexOf(field.message, messages);
    return [field.number, field.localName, TYPE_MESSAGE, rule, index, oneof(field)];
  }
  if (rule === rules.list && field.scalar !== 9 && field.scalar !== 12) fail("a repeated number");
  const type = kind === "enum" ? TYPE_ENUM : field.scalar;
  if (kind !== "enum" && !supported.has(type)) fail(`type ${type}`);
  return [field.number, field.localName, type, rule, -1, oneof(field)];
}

const oneof = (field) => field.oneof?.localName ?? "-";

function indexOf(message, messages) {
  const index = messages.indexOf(message);
  if (index < 0) throw new Error(`${message.typeName} is not a top-level message of the same file`);
  return index;
}

/** The module that takes the place of the generated one: the same exports, as tables. */
export async function tableModule(path) {
  const exports = await loadGenerated(path);
  const file = Object.values(exports).find((value) => value?.kind === "file");
  const messages = file.messages;
  const packageName = file.proto.package;
  const rows = messages.map((message) => [
    message.name,
    ...message.fields.flatMap((field) => fieldRow(field, messages)),
  ]);
  const table = rows.map((row) => `${row.join(" ")}\n`).join("");
  const lines = [
    `import { schemas, service } from ${JSON.stringify(runtime)};`,
    `const m = schemas(${JSON.stringify(packageName)}, ${JSON.stringify(table)});`,
  ];
  for (const [name, value] of Object.entries(exports)) {
    if (value?.kind === "message") lines.push(`export const ${name} = m[${messages.indexOf(value)}];`);
    else if (value?.kind === "service") lines.push(serviceLine(name, value, messages));
    else if (value?.kind === undefined) lines.push(`export const ${name} = ${JSON.stringify(value)};`);
  }
  return lines.join("\n");
}

function serviceLine(name, service, messages) {
  const methods = service.methods.map((method) => {
    if (method.methodKind !== "unary")
      throw new Error(`${service.typeName}.${method.name} is a streaming call`);
    const types = [method.input, method.output].map((type) => `m[${indexOf(type, messages)}]`);
    return `[${JSON.stringify(method.name)}, ${JSON.stringify(method.localName)}, ${types.join(", ")}]`;
  });
  return `export const ${name} = service(${JSON.stringify(service.typeName)}, [${methods.join(", ")}]);`;
}

export function schemaPlugin() {
  return {
    name: "schema-tables",
    setup(builder) {
      builder.onResolve({ filter: /^@bufbuild\/protobuf$/ }, () => ({ path: runtime }));
      builder.onResolve({ filter: /^\.\/envelope-codec\.ts$/ }, () => ({ path: envelopeCodec }));
      builder.onLoad({ filter: /\/src\/gen\/.*_pb\.ts$/ }, async ({ path }) => ({
        contents: await tableModule(path),
        loader: "js",
        resolveDir: here,
      }));
    },
  };
}
