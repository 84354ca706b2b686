/**
 * The answering side of one ttrpc connection. Portable.
 *
 * Each request runs on its own; answers go out as they become ready. What a peer can make this side hold is bounded:
 * calls in progress, the bytes of their requests, and the bytes of answers it does not read (reading then pauses).
 *
 * After the peer closed its sending side, calls in progress still get their answers, for a limited time (a socket
 * that was closed altogether looks the same from here); then their signal aborts and the connection ends.
 */
import type { ByteStream } from "../base/byte-stream.ts";
import { describeError, type ErrorCode, primaryError, SandboxError, Status } from "../base/errors.ts";
import { type Log, silentLog } from "../base/log.ts";
import { logField } from "../base/log-fields.ts";
import { ActiveCall, errorFrame, nameOf } from "./active-call.ts";
import { decodeRequest, type RequestEnvelope } from "./envelope.ts";
import { FrameDecoder, FrameFlag, type FrameHeader, FrameType, MAX_DATA_LENGTH } from "./frame.ts";
import { FrameWriter } from "./frame-writer.ts";
import type { MethodHandler, ServiceRegistration } from "./service.ts";

export interface ServerLimits {
  /**
   * Bytes of data in one frame from the peer, at most ttrpc's own 4 MiB; more is refused with ResourceExhausted. Worth
   * lowering for a hostile peer: a message can decode to fifty times its size.
   */
  readonly maxMessageBytes: number;
  /** Calls in progress per connection. Includes waits that last as long as a container. */
  readonly maxConcurrentCalls: number;
  /** Bytes of requests in progress per connection; one request alone is always let in. */
  readonly maxRequestBytes: number;
  /** Bytes of unread answers per connection above which no further requests are read. */
  readonly maxUnsentBytes: number;
  /** Milliseconds that calls in progress may take after the peer stopped sending. */
  readonly halfCloseMs: number;
}

export const defaultLimits: ServerLimits = {
  maxMessageBytes: MAX_DATA_LENGTH,
  maxConcurrentCalls: 4096,
  maxRequestBytes: 4 * MAX_DATA_LENGTH,
  maxUnsentBytes: MAX_DATA_LENGTH,
  halfCloseMs: 10_000,
};

/** Answers that are part of normal operation (a late kill, a call that is not offered): logged for debugging only. */
const expectedStatuses: ReadonlySet<Status> = new Set([
  Status.NotFound,
  Status.AlreadyExists,
  Status.Unimplemented,
  Status.Canceled,
]);

export interface ConnectionOptions {
  readonly log?: Log;
  readonly limits?: Partial<ServerLimits>;
}

function startTimer(ms: number): { readonly expired: Promise<void>; cancel(): void } {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const expired = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, ms);
  });
  return { expired, cancel: () => clearTimeout(timer) };
}

export class ServerConnection {
  readonly #stream: ByteStream;
  readonly #services: ReadonlyMap<string, ServiceRegistration>;
  readonly #log: Log;
  readonly #limits: ServerLimits;
  readonly #writer: FrameWriter;
  /** Calls whose handler has not settled, by stream id; answered ones still count against the limits. */
  readonly #calls = new Map<number, ActiveCall>();
  #lastStreamId = 0;
  #requestBytes = 0;
  #over = false;
  #draining = false;
  #answerWaiters: (() => void)[] = [];
  #announceClosed: () => void = () => undefined;

  /** Resolves (never rejects) when the connection has ended; handlers may still be winding up. */
  readonly closed: Promise<void>;

  /** Starts reading at once. Owns `stream` from here on. */
  constructor(stream: ByteStream, services: Iterable<ServiceRegistration>, options: ConnectionOptions = {}) {
    this.#stream = stream;
    this.#services = new Map([...services].map((service) => [service.name, service]));
    this.#log = options.log ?? silentLog;
    const limits = { ...defaultLimits, ...options.limits };
    this.#limits = { ...limits, maxMessageBytes: Math.min(limits.maxMessageBytes, MAX_DATA_LENGTH) };
    this.closed = new Promise((resolve) => {
      this.#announceClosed = resolve;
    });
    this.#writer = new FrameWriter(stream, (error) => this.#end("the connection broke", error));
    void this.#receive();
  }

  /** Calls whose handler has not settled. */
  get activeCalls(): number {
    return this.#calls.size;
  }

  /** Ends the connection at once; the signals of its calls abort. Idempotent. */
  close(): void {
    this.#end("the server closed the connection");
  }

  /**
   * Refuses new calls, lets those in progress be answered and the peer close the connection; ends it after `limitMs` at
   * the latest. The end is the peer's to choose: Go's client that finds an answer and the end of the stream at one time
   * picks one of them by chance, and "ttrpc: closed" is then what its caller sees (ttrpc client.go, `select`).
   */
  async drain(limitMs: number): Promise<void> {
    this.#draining = true;
    const limit = startTimer(limitMs);
    try {
      await this.#answersSent(limitMs);
      await Promise.race([this.closed, limit.expired]);
    } finally {
      limit.cancel();
    }
    this.close();
  }

  async #receive(): Promise<void> {
    const sink = {
      onFrame: (header: FrameHeader, data: Uint8Array) => this.#onFrame(header, data),
      onOversize: (header: FrameHeader) => this.#onOversize(header),
    };
    const decoder = new FrameDecoder(sink, this.#limits.maxMessageBytes);
    try {
      for await (const chunk of this.#stream.readable) {
        decoder.push(chunk);
        const { maxUnsentBytes } = this.#limits;
        if (this.#writer.queuedBytes > maxUnsentBytes) await this.#writer.belowBytes(maxUnsentBytes);
        if (this.#over) return;
      }
      decoder.end();
    } catch (error) {
      this.#end("the connection broke", error);
      return;
    }
    await this.#answersSent(this.#limits.halfCloseMs);
    if (!this.#over) this.#stream.end();
    this.#end("the peer closed the connection");
  }

  /** Resolves when every call is answered and the answers are with the stream, or after `limitMs`. */
  async #answersSent(limitMs: number): Promise<void> {
    const limit = startTimer(limitMs);
    const answered = async () => {
      while (!this.#over && [...this.#calls.values()].some((call) => !call.answered)) {
        await new Promise<void>((resolve) => this.#answerWaiters.push(resolve));
      }
      await this.#writer.belowBytes(0);
    };
    try {
      await Promise.race([answered(), limit.expired, this.closed]);
    } finally {
      limit.cancel();
    }
  }

  #onOversize(header: FrameHeader): void {
    if (this.#over) return;
    const text = `a message of ${header.length} bytes exceeds the limit of ${this.#limits.maxMessageBytes}`;
    if (header.type === FrameType.Data) {
      this.#onStrayData(header.streamId, "ERR_FRAME_TOO_LARGE", text);
    } else if (header.type === FrameType.Request && this.#admitId(header.streamId)) {
      this.#refuse(header.streamId, "ERR_FRAME_TOO_LARGE", text);
    }
  }

  #onFrame(header: FrameHeader, data: Uint8Array): void {
    if (this.#over) return;
    if (header.type === FrameType.Data) {
      this.#onStrayData(header.streamId, "ERR_INVALID_ARGUMENT", "stream data was sent on a unary call");
    } else if (header.type === FrameType.Request && this.#admitId(header.streamId)) {
      this.#onRequest(header, data);
    }
    // Other types are ignored, so that later versions of the protocol may add some.
  }

  /** Checks the id of a request (PROTOCOL.md: odd, and only growing) and takes note of it. */
  #admitId(streamId: number): boolean {
    if (streamId % 2 === 1 && streamId > this.#lastStreamId) {
      this.#lastStreamId = streamId;
      return true;
    }
    const text = `stream id ${streamId} is not an odd number above ${this.#lastStreamId}`;
    const call = this.#calls.get(streamId);
    // Two requests under one id: an answer would be taken for the first one's, so that one is over.
    if (call !== undefined) call.abandon(new SandboxError("ERR_INVALID_ARGUMENT", text));
    else this.#refuse(streamId, "ERR_INVALID_ARGUMENT", text);
    return false;
  }

  /** No call here is streaming: ends the call that the data was sent on, or answers when there never was one. */
  #onStrayData(streamId: number, code: ErrorCode, text: string): void {
    const call = this.#calls.get(streamId);
    if (call !== undefined) call.abandon(new SandboxError(code, text));
    else if (streamId > this.#lastStreamId) this.#refuse(streamId, code, text);
    // Otherwise the call was answered (a refused streaming call, for one): its peer may not have seen that yet.
  }

  #onRequest(header: FrameHeader, data: Uint8Array): void {
    const { streamId } = header;
    let request: RequestEnvelope;
    try {
      request = decodeRequest(data);
    } catch (error) {
      this.#writer.send(errorFrame(streamId, error));
      return;
    }
    const service = this.#services.get(request.service);
    const handler = service?.methods.get(request.method);
    if (service === undefined) {
      this.#refuse(streamId, "ERR_UNIMPLEMENTED", `service ${request.service} is not served here`);
    } else if (handler === undefined) {
      this.#refuse(streamId, "ERR_UNIMPLEMENTED", `method ${nameOf(request)} is not implemented`);
    } else if ((header.flags & FrameFlag.RemoteOpen) !== 0) {
      this.#refuse(
        streamId,
        "ERR_UNIMPLEMENTED",
        `${nameOf(request)} is unary; streaming calls are not supported`,
      );
    } else if (this.#draining) {
      this.#refuse(
        streamId,
        "ERR_UNAVAILABLE",
        `${nameOf(request)} was refused: the server is shutting down`,
      );
    } else if (!this.#hasRoom(data.length)) {
      const busy = `${this.#calls.size} calls with ${this.#requestBytes} bytes are in progress`;
      const text = `${nameOf(request)} was refused: ${busy}`;
      this.#refuse(streamId, "ERR_EXHAUSTED", text);
    } else {
      void this.#run(streamId, request, handler, data.length);
    }
  }

  #hasRoom(requestBytes: number): boolean {
    if (this.#calls.size === 0) return true;
    return (
      this.#calls.size < this.#limits.maxConcurrentCalls &&
      this.#requestBytes + requestBytes <= this.#limits.maxRequestBytes
    );
  }

  /** Runs one handler and answers. Never rejects. */
  async #run(
    streamId: number,
    request: RequestEnvelope,
    handler: MethodHandler,
    requestBytes: number,
  ): Promise<void> {
    const startedAt = performance.now();
    const call = new ActiveCall(streamId, request, requestBytes, startedAt, (frame) => this.#send(frame));
    this.#calls.set(streamId, call);
    this.#requestBytes += requestBytes;
    try {
      call.succeed(await handler(request.payload, call));
      this.#log.debug(callFields(call, startedAt), "call served");
    } catch (error) {
      this.#logFailure(call, startedAt, error);
      call.fail(error);
    } finally {
      call.settled();
      this.#calls.delete(streamId);
      this.#requestBytes -= requestBytes;
    }
  }

  #send(frame: Uint8Array): void {
    this.#writer.send(frame);
    if (this.#answerWaiters.length > 0) for (const wake of this.#answerWaiters.splice(0)) wake();
  }

  /** Answers a request that no handler will see. */
  #refuse(streamId: number, code: ErrorCode, message: string): void {
    this.#log.debug({ [logField.code]: code }, `call refused: ${message}`);
    this.#writer.send(errorFrame(streamId, new SandboxError(code, message)));
  }

  #logFailure(call: ActiveCall, startedAt: number, error: unknown): void {
    const primary = primaryError(error);
    const fields = {
      ...(primary instanceof SandboxError ? { ...primary.fields, [logField.code]: primary.code } : {}),
      ...callFields(call, startedAt),
      [logField.error]: describeError(error),
    };
    const status = primary instanceof SandboxError ? primary.status : Status.Internal;
    if (expectedStatuses.has(status)) {
      this.#log.debug(fields, "call failed");
    } else if (status !== Status.Internal) {
      this.#log.error(fields, "call failed");
    } else {
      const stack = error instanceof Error ? error.stack : undefined;
      this.#log.error({ ...fields, stack }, "call failed unexpectedly");
    }
  }

  #end(why: string, cause?: unknown): void {
    if (this.#over) return;
    this.#over = true;
    this.#writer.stop();
    this.#stream.destroy();
    if (cause !== undefined) this.#log.debug({ [logField.error]: describeError(cause) }, `ttrpc: ${why}`);
    const reason = new SandboxError("ERR_CANCELED", `${why} before the call was answered`, { cause });
    for (const call of this.#calls.values()) call.disconnect(reason);
    for (const wake of this.#answerWaiters.splice(0)) wake();
    this.#announceClosed();
  }
}

/** The handler's own span is over when its call is logged. */
function callFields({ name, traceId }: ActiveCall, startedAt: number): Record<string, unknown> {
  const fields: Record<string, unknown> = {
    [logField.operation]: name,
    [logField.durationMs]: Math.round(performance.now() - startedAt),
  };
  if (traceId !== undefined) fields[logField.trace] = traceId;
  return fields;
}
