/**
 * The agent's own protobuf messages: what `create`, `fromBinary` and `toBinary` of @bufbuild/protobuf do, for the
 * features that agent.proto uses, on tables made at build time (schema-plugin.mjs). The library would parse its
 * descriptors at every start, which took 12 of 14 ms of the agent's start and a third of its memory.
 *
 * The bundle resolves "@bufbuild/protobuf" to this module, so shared code (src/ttrpc) and the types stay the same; a
 * test compares both implementations message by message. Portable; the wire format is the library's own reader and writer.
 */
import { BinaryReader, BinaryWriter, WireType } from "@bufbuild/protobuf/wire";

/** Field types, numbered as in descriptor.proto (FieldDescriptorProto.Type). */
const Type = {
  Uint64: 4,
  Int32: 5,
  Bool: 8,
  String: 9,
  Message: 11,
  Bytes: 12,
  Uint32: 13,
  Enum: 14,
} as const;

/** How often a field comes. */
export const Rule = { Single: 0, Repeated: 1, Map: 2 } as const;

/**
 * A field as the build writes it: number, local name, type (of a map: of its values), rule, index of the message type
 * (-1 for none), name of the oneof ("" for none). Map keys are strings.
 */
export type FieldRow = readonly [number, string, number, number, number, string];
/** A message's name and its fields, FieldRow[] as JSON: most messages of a guest are never seen by it. */
export type MessageRow = readonly [string, string];

interface Field {
  readonly no: number;
  readonly name: string;
  readonly type: number;
  readonly rule: number;
  readonly message: Schema | undefined;
  readonly oneof: string;
}

export interface Schema {
  readonly typeName: string;
  readonly fields: readonly Field[];
}

type Values = Record<string, unknown>;
interface OneofValue {
  readonly case: string | undefined;
  readonly value?: unknown;
}

/** Schemas from the rows of one file, in their order. */
export function schemas(packageName: string, rows: readonly MessageRow[]): Schema[] {
  const made: Schema[] = [];
  for (const [name, fields] of rows) made.push(new TableSchema(`${packageName}.${name}`, fields, made));
  return made;
}

class TableSchema implements Schema {
  readonly typeName: string;
  readonly #rows: string;
  /** Of the file, in the order of its rows. */
  readonly #schemas: readonly Schema[];
  #fields: readonly Field[] | undefined;

  constructor(typeName: string, rows: string, schemas: readonly Schema[]) {
    this.typeName = typeName;
    this.#rows = rows;
    this.#schemas = schemas;
  }

  get fields(): readonly Field[] {
    this.#fields ??= (JSON.parse(this.#rows) as FieldRow[]).map(([no, name, type, rule, message, oneof]) => ({
      no,
      name,
      type,
      rule,
      message: this.#schemas[message],
      oneof,
    }));
    return this.#fields;
  }
}

/** A service as src/ttrpc/service.ts reads it. Rows: name, local name, input, output. */
export function service(typeName: string, rows: readonly (readonly [string, string, Schema, Schema])[]) {
  const methods = rows.map(([name, localName, input, output]) => ({
    name,
    localName,
    input,
    output,
    methodKind: "unary" as const,
  }));
  return {
    typeName,
    methods,
    method: Object.fromEntries(methods.map((method) => [method.localName, method])),
  };
}

function zero(type: number): unknown {
  if (type === Type.String) return "";
  if (type === Type.Bool) return false;
  if (type === Type.Uint64) return 0n;
  if (type === Type.Bytes) return new Uint8Array(0);
  return type === Type.Message ? undefined : 0;
}

/** A message with the values of `init`, absent fields set to their defaults. A message is returned as it is. */
export function create(schema: Schema, init: Values = {}): Values {
  if (init.$typeName === schema.typeName) return init;
  const message: Values = { $typeName: schema.typeName };
  for (const field of schema.fields) {
    if (field.oneof !== "") {
      message[field.oneof] ??= createOneof(schema, field.oneof, init[field.oneof] as OneofValue | undefined);
      continue;
    }
    const given = init[field.name];
    if (given === undefined) {
      if (field.rule === Rule.Repeated) message[field.name] = [];
      else if (field.rule === Rule.Map) message[field.name] = {};
      else if (field.type !== Type.Message) message[field.name] = zero(field.type);
    } else {
      message[field.name] = createField(field, given);
    }
  }
  return message;
}

function createOneof(schema: Schema, oneof: string, given: OneofValue | undefined): OneofValue {
  const field = schema.fields.find(({ name, oneof: of }) => of === oneof && name === given?.case);
  if (field === undefined) return { case: undefined };
  return { case: field.name, value: createField(field, given?.value) };
}

function createField({ rule, message }: Field, given: unknown): unknown {
  if (message === undefined) return given;
  if (rule === Rule.Repeated) return (given as Values[]).map((item) => create(message, item));
  if (rule === Rule.Single) return create(message, given as Values);
  const entries = Object.entries(given as Record<string, Values>);
  return Object.fromEntries(entries.map(([key, value]) => [key, create(message, value)]));
}

/** The encoded message: fields in the order of the schema, defaults left out (proto3). */
export function toBinary(schema: Schema, message: Values): Uint8Array {
  const writer = new BinaryWriter();
  writeMessage(writer, schema, message);
  return writer.finish();
}

function writeMessage(writer: BinaryWriter, schema: Schema, message: Values): void {
  for (const field of schema.fields) {
    if (field.oneof !== "") {
      const chosen = message[field.oneof] as OneofValue | undefined;
      if (chosen?.case === field.name) writeValue(writer, field.no, field, chosen.value);
      continue;
    }
    const value = message[field.name];
    if (field.rule === Rule.Repeated) {
      for (const item of value as unknown[]) writeValue(writer, field.no, field, item);
    } else if (field.rule === Rule.Map) {
      for (const [key, item] of Object.entries(value as Values)) {
        writer.tag(field.no, WireType.LengthDelimited).fork();
        writer.tag(1, WireType.LengthDelimited).string(key);
        writeValue(writer, 2, field, item);
        writer.join();
      }
    } else if (!isZero(field.type, value)) {
      writeValue(writer, field.no, field, value);
    }
  }
}

function isZero(type: number, value: unknown): boolean {
  if (value === undefined) return true;
  return type === Type.Bytes ? (value as Uint8Array).length === 0 : value === zero(type);
}

function writeValue(writer: BinaryWriter, no: number, { type, message }: Field, value: unknown): void {
  if (message !== undefined) {
    writeMessage(writer.tag(no, WireType.LengthDelimited).fork(), message, value as Values);
    writer.join();
  } else if (type === Type.String) writer.tag(no, WireType.LengthDelimited).string(value as string);
  else if (type === Type.Bytes) writer.tag(no, WireType.LengthDelimited).bytes(value as Uint8Array);
  else if (type === Type.Bool) writer.tag(no, WireType.Varint).bool(value as boolean);
  else if (type === Type.Uint64) writer.tag(no, WireType.Varint).uint64(value as bigint);
  else if (type === Type.Uint32) writer.tag(no, WireType.Varint).uint32(value as number);
  else writer.tag(no, WireType.Varint).int32(value as number);
}

/** Decodes a message; unknown fields are skipped. @throws RangeError or Error when it is malformed */
export function fromBinary(schema: Schema, bytes: Uint8Array): Values {
  const reader = new BinaryReader(bytes);
  return readMessage(reader, schema, reader.len);
}

function readMessage(reader: BinaryReader, schema: Schema, end: number): Values {
  const message = create(schema);
  while (reader.pos < end) {
    const [no, wireType] = reader.tag();
    const field = schema.fields.find((candidate) => candidate.no === no);
    if (field === undefined || wireType !== wireTypeOf(field)) reader.skip(wireType, no);
    else readField(reader, field, message);
  }
  if (reader.pos > end) throw new RangeError("a nested message runs over its end");
  return message;
}

function wireTypeOf({ rule, type }: Field): WireType {
  const delimited = rule === Rule.Map || type === Type.String || type === Type.Bytes || type === Type.Message;
  return delimited ? WireType.LengthDelimited : WireType.Varint;
}

function readField(reader: BinaryReader, field: Field, message: Values): void {
  if (field.rule === Rule.Map) {
    const [key, value] = readEntry(reader, field);
    // Never through a setter of Object.prototype.
    Object.defineProperty(message[field.name], key, {
      value,
      enumerable: true,
      writable: true,
      configurable: true,
    });
  } else if (field.rule === Rule.Repeated) {
    (message[field.name] as unknown[]).push(readValue(reader, field));
  } else if (field.oneof !== "") {
    message[field.oneof] = { case: field.name, value: readValue(reader, field) };
  } else {
    message[field.name] = readValue(reader, field);
  }
}

function readEntry(reader: BinaryReader, field: Field): [string, unknown] {
  const end = reader.uint32() + reader.pos;
  let key = "";
  let value = field.message === undefined ? zero(field.type) : create(field.message);
  while (reader.pos < end) {
    const [no, wireType] = reader.tag();
    if (no === 1) key = reader.string();
    else if (no === 2) value = readValue(reader, field);
    else reader.skip(wireType, no);
  }
  return [key, value];
}

function readValue(reader: BinaryReader, { type, message }: Field): unknown {
  if (message !== undefined) return readMessage(reader, message, reader.uint32() + reader.pos);
  if (type === Type.String) return reader.string();
  if (type === Type.Bytes) return reader.bytes();
  if (type === Type.Bool) return reader.bool();
  // The reader answers with a string where there is no BigInt support in DataView.
  if (type === Type.Uint64) return BigInt(reader.uint64());
  return type === Type.Uint32 ? reader.uint32() : reader.int32();
}
