/**
 * The bytes of ttrpc's Request and Response messages (envelope.ts), on protobuf-es' wire layer: a frame is built with one copy
 * of the payload and read with none. Portable; the guest has native code in its place.
 */
import { BinaryReader, BinaryWriter, WireType } from "@bufbuild/protobuf/wire";

export interface RequestParts {
  readonly service: string;
  readonly method: string;
  readonly payload: Uint8Array;
  readonly timeoutNano: bigint;
  readonly metadata: readonly { readonly key: string; readonly value: string }[];
}

export interface ResponseParts {
  readonly status?: { readonly code: number; readonly message: string } | undefined;
  readonly payload: Uint8Array;
}

const noBytes = new Uint8Array(0);

/** Behind `reserve` bytes for the caller to fill: the payload is then copied only by finish(). */
export function writeRequest(parts: RequestParts, reserve: number): Uint8Array {
  const writer = new BinaryWriter().raw(new Uint8Array(reserve));
  writer.tag(1, WireType.LengthDelimited).string(parts.service);
  writer.tag(2, WireType.LengthDelimited).string(parts.method);
  if (parts.payload.length > 0) writer.tag(3, WireType.LengthDelimited).bytes(parts.payload);
  if (parts.timeoutNano !== 0n) writer.tag(4, WireType.Varint).int64(parts.timeoutNano);
  for (const { key, value } of parts.metadata) {
    writer.tag(5, WireType.LengthDelimited).fork();
    writer.tag(1, WireType.LengthDelimited).string(key);
    writer.tag(2, WireType.LengthDelimited).string(value).join();
  }
  return writer.finish();
}

/** As writeRequest. */
export function writeResponse({ status, payload }: ResponseParts, reserve: number): Uint8Array {
  const writer = new BinaryWriter().raw(new Uint8Array(reserve));
  if (status !== undefined) {
    writer.tag(1, WireType.LengthDelimited).fork();
    if (status.code !== 0) writer.tag(1, WireType.Varint).int32(status.code);
    if (status.message !== "") writer.tag(2, WireType.LengthDelimited).string(status.message);
    writer.join();
  }
  if (payload.length > 0) writer.tag(2, WireType.LengthDelimited).bytes(payload);
  return writer.finish();
}

/** The payload is a view of `data`. @throws Error when it is malformed or has more than `maxMetadata` entries */
export function readRequest(data: Uint8Array, maxMetadata: number): RequestParts {
  let service = "";
  let method = "";
  let payload: Uint8Array = noBytes;
  let timeoutNano = 0n;
  const metadata: { readonly key: string; readonly value: string }[] = [];
  readFields(data, (reader, field, type) => {
    if (field === 1 && type === WireType.LengthDelimited) service = reader.string();
    else if (field === 2 && type === WireType.LengthDelimited) method = reader.string();
    else if (field === 3 && type === WireType.LengthDelimited) payload = reader.bytes();
    else if (field === 4 && type === WireType.Varint) timeoutNano = BigInt(reader.int64());
    else if (field === 5 && type === WireType.LengthDelimited) {
      if (metadata.length === maxMetadata) throw new RangeError(`over ${maxMetadata} metadata entries`);
      metadata.push(readEntry(reader.bytes()));
    } else return false;
    return true;
  });
  return { service, method, payload, timeoutNano, metadata };
}

/** The payload is a view of `data`. @throws Error when it is malformed */
export function readResponse(data: Uint8Array): ResponseParts {
  let status: ResponseParts["status"];
  let payload: Uint8Array = noBytes;
  readFields(data, (reader, field, type) => {
    if (field === 1 && type === WireType.LengthDelimited) status = readStatus(reader.bytes());
    else if (field === 2 && type === WireType.LengthDelimited) payload = reader.bytes();
    else return false;
    return true;
  });
  return { status, payload };
}

function readStatus(data: Uint8Array): { readonly code: number; readonly message: string } {
  let code = 0;
  let message = "";
  readFields(data, (reader, field, type) => {
    if (field === 1 && type === WireType.Varint) code = reader.int32();
    else if (field === 2 && type === WireType.LengthDelimited) message = reader.string();
    else return false;
    return true;
  });
  return { code, message };
}

function readEntry(data: Uint8Array): { readonly key: string; readonly value: string } {
  let key = "";
  let value = "";
  readFields(data, (reader, field, type) => {
    if (field === 1 && type === WireType.LengthDelimited) key = reader.string();
    else if (field === 2 && type === WireType.LengthDelimited) value = reader.string();
    else return false;
    return true;
  });
  return { key, value };
}

/** Walks the fields of a message; `take` reads one and returns true, or returns false to have it skipped. */
function readFields(
  data: Uint8Array,
  take: (reader: BinaryReader, field: number, type: WireType) => boolean,
): void {
  const reader = new BinaryReader(data);
  while (reader.pos < reader.len) {
    const [field, type] = reader.tag();
    if (!take(reader, field, type)) reader.skip(type, field);
  }
}
