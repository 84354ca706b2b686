/**
 * The data of request and response frames: ttrpc's Request and Response messages, and google.rpc.Status within the
 * latter. Portable; the bytes are written and read by envelope-codec.ts.
 *
 *     Request  { string service = 1; string method = 2; bytes payload = 3; int64 timeout_nano = 4;
 *                repeated KeyValue metadata = 5; }        KeyValue { string key = 1; string value = 2; }
 *     Response { google.rpc.Status status = 1; bytes payload = 2; }
 *     Status   { int32 code = 1; string message = 2; repeated google.protobuf.Any details = 3; }
 *
 * Facts: containerd/ttrpc request.proto; googleapis google/rpc/status.proto.
 */
import { type ErrorCode, SandboxError } from "../base/errors.ts";
import {
  type RequestParts,
  readRequest,
  readResponse,
  writeRequest,
  writeResponse,
} from "./envelope-codec.ts";
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

/** Metadata entries that one request may carry; a bound for hostile peers, far above any real use. */
const MAX_METADATA_ENTRIES = 1024;

const noMetadata: Metadata = new Map();

/**
 * A whole request frame.
 * @throws SandboxError ERR_FRAME_TOO_LARGE when its data would exceed 4 MiB.
 */
export function encodeRequestFrame(streamId: number, flags: number, request: RequestInit): Uint8Array {
  const { service, method, payload, timeoutNano = 0n } = request;
  const metadata = request.metadata === undefined ? [] : metadataEntries(request.metadata);
  const frame = writeRequest({ service, method, payload, timeoutNano, metadata }, HEADER_LENGTH);
  if (frame.length > MAX_FRAME_LENGTH) throw tooLarge(frame, `the request to ${service}/${method}`);
  return finishFrame(frame, streamId, FrameType.Request, flags);
}

/**
 * A whole response frame.
 * @throws SandboxError ERR_FRAME_TOO_LARGE when its data would exceed 4 MiB.
 */
export function encodeResponseFrame(streamId: number, response: ResponseEnvelope): Uint8Array {
  const frame = writeResponse(response, HEADER_LENGTH);
  if (frame.length > MAX_FRAME_LENGTH) throw tooLarge(frame, "the response");
  return finishFrame(frame, streamId, FrameType.Response, 0);
}

/** Decodes the data of a request frame. @throws SandboxError ERR_INVALID_ARGUMENT when it is malformed. */
export function decodeRequest(data: Uint8Array): RequestEnvelope {
  let parts: RequestParts;
  try {
    parts = readRequest(data, MAX_METADATA_ENTRIES);
  } catch (error) {
    throw malformed("ERR_INVALID_ARGUMENT", "request", error);
  }
  const { service, method, payload, timeoutNano, metadata } = parts;
  return { service, method, payload, timeoutNano, metadata: metadataMap(metadata) };
}

/** Decodes the data of a response frame. @throws SandboxError ERR_PROTOCOL when it is malformed. */
export function decodeResponse(data: Uint8Array): ResponseEnvelope {
  try {
    const { status, payload } = readResponse(data);
    return status === undefined ? { payload } : { status, payload };
  } catch (error) {
    throw malformed("ERR_PROTOCOL", "response", error);
  }
}

const malformed = (code: ErrorCode, what: string, cause: unknown): SandboxError =>
  new SandboxError(code, `received a malformed ttrpc ${what}`, { cause });

function metadataEntries(metadata: MetadataInit): RequestParts["metadata"] {
  return Object.entries(metadata).flatMap(([key, values]) =>
    (typeof values === "string" ? [values] : values).map((value) => ({ key: key.toLowerCase(), value })),
  );
}

function metadataMap(entries: RequestParts["metadata"]): Metadata {
  if (entries.length === 0) return noMetadata;
  const metadata = new Map<string, string[]>();
  for (const { key, value } of entries) {
    const name = key.toLowerCase();
    const values = metadata.get(name);
    if (values === undefined) metadata.set(name, [value]);
    else values.push(value);
  }
  return metadata;
}

const MAX_FRAME_LENGTH = HEADER_LENGTH + MAX_DATA_LENGTH;

function tooLarge(frame: Uint8Array, what: string): SandboxError {
  return new SandboxError(
    "ERR_FRAME_TOO_LARGE",
    `${what} has ${frame.length - HEADER_LENGTH} bytes, more than the ${MAX_DATA_LENGTH} that one ttrpc message may have`,
  );
}

/** Fills in the header, once the length is known. */
function finishFrame(frame: Uint8Array, streamId: number, type: number, flags: number): Uint8Array {
  writeHeader(frame, { length: frame.length - HEADER_LENGTH, streamId, type, flags });
  return frame;
}
