/** google.protobuf.Any as containerd reads it. */
import { create, type DescMessage, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { type Any, AnySchema } from "@bufbuild/protobuf/wkt";

/** Packs `message` with the bare type name as URL: containerd 1.6 looks it up as it is, without a host part. */
export function packAny<D extends DescMessage>(schema: D, message: MessageInitShape<D>): Any {
  return create(AnySchema, { typeUrl: schema.typeName, value: toBinary(schema, create(schema, message)) });
}
