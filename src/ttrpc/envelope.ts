/**
 * The data of request and response frames: ttrpc's Request and Response messages, and google.rpc.Status within the
 * latter. Written by hand on protobuf-es' wire layer, so that a frame is built with one copy of the payload and read
 * with none. Portable: text goes through the codec that protobuf-es was configured with.
 *
 *     Request  { string service = 1; string method = 2; bytes payload = 3; int64 timeout_nano = 4;
 *                repeated KeyValue metadata = 5; }        KeyValue { string key = 1; string value = 2; }
 *     Response { google.rpc.Status status = 1; bytes payload = 2; }
 *     Status   { int32 code = 1; string message = 2; repeated google.protobuf.Any details = 3; }
 *
 * Facts: containerd/ttrpc request.proto; googleapis google/rpc/status.proto.
 */
import { BinaryReader, BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import { SandboxError } from "../base/errors.ts";
import { FrameType, HEADER_LENGTH, MAX_DATA_LENGTH, writeHeader } from "./frame.ts";

/** Metadata of a call; keys are lower case. A key may come more than once. */
export type Metadata = ReadonlyMap<string, readonly string[]>;

/** What a caller may give as metadata. */
export type MetadataInit = Readonly<Record<string, string | readonly string[]>>;

export interface RequestEnvelope {
  readonly service: string;
  readonly method: string;
  /** Encoded input message; may be a view into the frame. */
  readonly payload: Uint8Array;
  /** Time the caller gives the call; 0 for no limit. Negative when it had passed already at sending. */
  readonly timeoutNano: bigint;
  readonly metadata: Metadata;
}

export interface RequestInit {
  readonly service: string;
  readonly method: string;
  readonly payload: Uint8Array;
  readonly timeoutNano?: bigint;
  readonly metadata?: MetadataInit;
}

export interface StatusEnvelope {
  /** google.rpc.Code. */
  readonly code: number;
  readonly message: string;
}

export interface ResponseEnvelope {
  /** Absent means success, as code 0 does. */
  readonly status?: StatusEnvelope;
  readonly payload: Uint8Array;
}

const noBytes = new Uint8Array(0);

/** Metadata entries that one request may carry; a bound for hostile peers, far above any real use. */
const MAX_METADATA_ENTRIES = 1024;

/**
 * A whole request frame.
 * @throws SandboxError ERR_FRAME_TOO_LARGE when its data would exceed 4 MiB.
 */
export function encodeRequestFrame(streamId: number, flags: number, request: RequestInit): Uint8Array {
  const writer = frameWriter();
  writer.tag(1, WireType.LengthDelimited).string(request.service);
  writer.tag(2, WireType.LengthDelimited).string(request.method);
  if (request.payload.length > 0) writer.tag(3, WireType.LengthDelimited).bytes(request.payload);
  if (request.timeoutNano !== undefined && request.timeoutNano !== 0n) {
    writer.tag(4, WireType.Varint).int64(request.timeoutNano);
  }
  for (const [key, values] of Object.entries(request.metadata ?? {})) {
    for (const value of typeof values === "string" ? [values] : values) {
      writer.tag(5, WireType.LengthDelimited).fork();
      writer.tag(1, WireType.LengthDelimited).string(key.toLowerCase());
      writer.tag(2, WireType.LengthDelimited).string(value).join();
    }
  }
  const what = `the request to ${request.service}/${request.method}`;
  return finishFrame(writer, streamId, FrameType.Request, flags, what);
}

/**
 * A whole response frame.
 * @throws SandboxError ERR_FRAME_TOO_LARGE when its data would exceed 4 MiB.
 */
export function encodeResponseFrame(streamId: number, response: ResponseEnvelope): Uint8Array {
  const writer = frameWriter();
  if (response.status !== undefined) {
    writer.tag(1, WireType.LengthDelimited).fork();
    if (response.status.code !== 0) writer.tag(1, WireType.Varint).int32(response.status.code);
    if (response.status.message !== "") {
      writer.tag(2, WireType.LengthDelimited).string(response.status.message);
    }
    writer.join();
  }
  if (response.payload.length > 0) writer.tag(2, WireType.LengthDelimited).bytes(response.payload);
  return finishFrame(writer, streamId, FrameType.Response, 0, "the response");
}

/** Decodes the data of a request frame. @throws SandboxError ERR_INVALID_ARGUMENT when it is malformed. */
export function decodeRequest(data: Uint8Array): RequestEnvelope {
  let service = "";
  let method = "";
  let payload: Uint8Array = noBytes;
  let timeoutNano = 0n;
  let entries = 0;
  const metadata = new Map<string, string[]>();
  readFields(data, "ERR_INVALID_ARGUMENT", "a malformed ttrpc request", (reader, field, type) => {
    if (field === 1 && type === WireType.LengthDelimited) service = reader.string();
    else if (field === 2 && type === WireType.LengthDelimited) method = reader.string();
    else if (field === 3 && type === WireType.LengthDelimited) payload = reader.bytes();
    else if (field === 4 && type === WireType.Varint) timeoutNano = BigInt(reader.int64());
    else if (field === 5 && type === WireType.LengthDelimited) {
      entries += 1;
      if (entries > MAX_METADATA_ENTRIES)
        throw new RangeError(`over ${MAX_METADATA_ENTRIES} metadata entries`);
      addMetadata(metadata, reader.bytes());
    } else return false;
    return true;
  });
  return { service, method, payload, timeoutNano, metadata };
}

/** Decodes the data of a response frame. @throws SandboxError ERR_PROTOCOL when it is malformed. */
export function decodeResponse(data: Uint8Array): ResponseEnvelope {
  let status: StatusEnvelope | undefined;
  let payload: Uint8Array = noBytes;
  readFields(data, "ERR_PROTOCOL", "a malformed ttrpc response", (reader, field, type) => {
    if (field === 1 && type === WireType.LengthDelimited) status = decodeStatus(reader.bytes());
    else if (field === 2 && type === WireType.LengthDelimited) payload = reader.bytes();
    else return false;
    return true;
  });
  return status === undefined ? { payload } : { status, payload };
}

function decodeStatus(data: Uint8Array): StatusEnvelope {
  let code = 0;
  let message = "";
  readFields(data, "ERR_PROTOCOL", "a malformed ttrpc status", (reader, field, type) => {
    if (field === 1 && type === WireType.Varint) code = reader.int32();
    else if (field === 2 && type === WireType.LengthDelimited) message = reader.string();
    else return false;
    return true;
  });
  return { code, message };
}

function addMetadata(metadata: Map<string, string[]>, data: Uint8Array): void {
  let key = "";
  let value = "";
  readFields(data, "ERR_INVALID_ARGUMENT", "malformed ttrpc metadata", (reader, field, type) => {
    if (field === 1 && type === WireType.LengthDelimited) key = reader.string();
    else if (field === 2 && type === WireType.LengthDelimited) value = reader.string();
    else return false;
    return true;
  });
  const name = key.toLowerCase();
  const values = metadata.get(name);
  if (values === undefined) metadata.set(name, [value]);
  else values.push(value);
}

/** Walks the fields of a message; `take` reads one and returns true, or returns false to have it skipped. */
function readFields(
  data: Uint8Array,
  code: "ERR_INVALID_ARGUMENT" | "ERR_PROTOCOL",
  what: string,
  take: (reader: BinaryReader, field: number, type: WireType) => boolean,
): void {
  try {
    const reader = new BinaryReader(data);
    while (reader.pos < reader.len) {
      const [field, type] = reader.tag();
      if (!take(reader, field, type)) reader.skip(type, field);
    }
  } catch (error) {
    throw new SandboxError(code, `received ${what}`, { cause: error });
  }
}

function frameWriter(): BinaryWriter {
  // Room for the header, filled in once the length is known: the payload is then copied only by finish().
  return new BinaryWriter().raw(new Uint8Array(HEADER_LENGTH));
}

function finishFrame(
  writer: BinaryWriter,
  streamId: number,
  type: number,
  flags: number,
  what: string,
): Uint8Array {
  const frame = writer.finish();
  const length = frame.length - HEADER_LENGTH;
  if (length > MAX_DATA_LENGTH) {
    throw new SandboxError(
      "ERR_FRAME_TOO_LARGE",
      `${what} has ${length} bytes, more than the ${MAX_DATA_LENGTH} that one ttrpc message may have`,
    );
  }
  writeHeader(frame, { length, streamId, type, flags });
  return frame;
}
