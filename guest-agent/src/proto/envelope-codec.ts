/** What src/ttrpc/envelope-codec.ts does, in native code: the bundle resolves that module to this one. */
import type { RequestParts, ResponseParts } from "../../../src/ttrpc/envelope-codec.ts";
import { fromBinary, type Schema, schemas, toBinary } from "./messages.ts";

/** Explained in messages.ts; the fields in src/ttrpc/envelope.ts. */
const [, request, , response] = schemas(
  "ttrpc",
  "KeyValue 1 key 9 0 -1 - 2 value 9 0 -1 -\n" +
    "Request 1 service 9 0 -1 - 2 method 9 0 -1 - 3 payload 12 0 -1 - 4 timeoutNano 3 0 -1 - 5 metadata 11 1 0 -\n" +
    "Status 1 code 5 0 -1 - 2 message 9 0 -1 -\n" +
    "Response 1 status 11 0 2 - 2 payload 12 0 -1 -\n",
) as [Schema, Schema, Schema, Schema];

export const writeRequest = (parts: RequestParts, reserve: number): Uint8Array =>
  toBinary(request, parts, reserve);

export const writeResponse = (parts: ResponseParts, reserve: number): Uint8Array =>
  toBinary(response, parts, reserve);

/** @throws RangeError when it is malformed or has more than `maxMetadata` entries */
export function readRequest(data: Uint8Array, maxMetadata: number): RequestParts {
  const parts = fromBinary(request, data) as unknown as RequestParts;
  if (parts.metadata.length > maxMetadata) throw new RangeError(`over ${maxMetadata} metadata entries`);
  return parts;
}

/** @throws RangeError when it is malformed */
export const readResponse = (data: Uint8Array): ResponseParts =>
  fromBinary(response, data) as unknown as ResponseParts;
