/**
 * The agent's protobuf messages: what `create`, `fromBinary` and `toBinary` of @bufbuild/protobuf do, for the features that
 * agent.proto uses, in native code (native/message_*.c) on tables made at build time (schema-plugin.mjs). The library would
 * parse its descriptors at every start, and its loops over bytes are slow in an interpreter: decisions/0002.
 *
 * The bundle resolves "@bufbuild/protobuf" to this module, so shared code (src/ttrpc) and the types stay the same; a test
 * compares both implementations message by message.
 *
 * A table is a line per message: its name, then six words per field: number, local name, type (FieldDescriptorProto.Type; of
 * a map: of its values), rule (0 once, 1 repeated, 2 map with strings as keys), index of the message type in the file (-1 for
 * none), name of the oneof ("-" for none).
 */
import * as sys from "sys";

export type Schema = sys.MessageSchema;

/** The message types of a file, in the order of its table. */
export const schemas = sys.messageSchemas;
/** A message with the values of `init`, absent fields set to their defaults. A message is returned as it is. */
export const create = sys.createMessage;
/** The encoded message: fields in the order of the schema, defaults left out (proto3). */
export const toBinary = sys.encodeMessage;
/**
 * Decodes a message; unknown fields and those of another wire type are skipped, malformed UTF-8 becomes U+FFFD.
 * @throws RangeError when it is malformed
 */
export const fromBinary = sys.decodeMessage;

/** A service as src/ttrpc/service.ts reads it. Rows: name, local name, input, output. */
export function service(typeName: string, rows: readonly (readonly [string, string, Schema, Schema])[]) {
  const methods = rows.map(([name, localName, input, output]) => ({
    name,
    localName,
    input,
    output,
    methodKind: "unary" as const,
  }));
  return { typeName, methods };
}
