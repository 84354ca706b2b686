/** src/gen is what `npm run generate` makes of proto/, and the wire format of the peers does not change unnoticed. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { createFileRegistry, type DescField, fromBinary } from "@bufbuild/protobuf";
import { FieldDescriptorProto_Type, FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";

const root = fileURLToPath(new URL("../../..", import.meta.url));
const golden = path.join(root, "test/golden/proto-descriptor.txt");
const buf = path.join(root, "node_modules/.bin/buf");
let directory: string;

before(() => {
  directory = fs.mkdtempSync(path.join(os.tmpdir(), "generate-"));
});
after(() => fs.rmSync(directory, { recursive: true }));

function filesBelow(top: string): Map<string, string> {
  const names = fs.readdirSync(top, { recursive: true, encoding: "utf8" }).sort();
  const files = names.filter((name) => fs.statSync(path.join(top, name)).isFile());
  return new Map(files.map((name) => [name, fs.readFileSync(path.join(top, name), "utf8")]));
}

test("src/gen equals a fresh `npm run generate`", () => {
  execFileSync(buf, ["generate", "--output", directory], { cwd: root, stdio: "pipe" });
  const committed = filesBelow(path.join(root, "src/gen"));
  const fresh = filesBelow(path.join(directory, "src/gen"));
  assert.deepEqual([...committed.keys()], [...fresh.keys()], "run `npm run generate`");
  for (const [name, text] of fresh)
    assert.equal(committed.get(name), text, `${name} is stale: run \`npm run generate\``);
});

test("the messages and services are those of the reviewed descriptor (UPDATE_GOLDEN=1 rewrites it)", () => {
  const image = path.join(directory, "image.binpb");
  execFileSync(buf, ["build", "--output", image], { cwd: root, stdio: "pipe" });
  const text = describeImage(fs.readFileSync(image));
  if (process.env.UPDATE_GOLDEN === "1") fs.writeFileSync(golden, text);
  assert.equal(text, fs.readFileSync(golden, "utf8"));
});

/** One line per message, enum and service: names, numbers and types, nothing else. */
function describeImage(image: Uint8Array): string {
  const lines: string[] = [];
  for (const type of createFileRegistry(fromBinary(FileDescriptorSetSchema, image))) {
    if (type.typeName.startsWith("google.")) continue;
    if (type.kind === "message") {
      lines.push(`message ${type.typeName} { ${type.fields.map(describeField).join("; ")} }`);
    } else if (type.kind === "enum") {
      lines.push(`enum ${type.typeName} { ${type.values.map((v) => `${v.name}=${v.number}`).join("; ")} }`);
    } else if (type.kind === "service") {
      const methods = type.methods.map(
        (m) => `${m.name}(${m.input.typeName}) ${m.output.typeName} ${m.methodKind}`,
      );
      lines.push(`service ${type.typeName} { ${methods.join("; ")} }`);
    }
  }
  return `${lines.sort().join("\n")}\n`;
}

function describeField(field: DescField): string {
  const scalar = FieldDescriptorProto_Type[field.proto.type].toLowerCase();
  const named = field.proto.typeName.replace(/^\./, "");
  const repeated = field.fieldKind === "list" ? "repeated " : "";
  const optional = field.proto.proto3Optional ? "optional " : "";
  const member = field.oneof === undefined ? "" : ` in ${field.oneof.name}`;
  return `${field.number} ${repeated}${optional}${named || scalar} ${field.name}${member}`;
}
