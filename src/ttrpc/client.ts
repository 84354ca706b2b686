/**
 * The calling side of a ttrpc connection. Portable.
 *
 * Owns the ByteStream it is given. Calls run concurrently on the one connection and are answered in any order. ttrpc
 * has no cancel message: a call that is given up locally goes on at the peer, and its late answer is dropped.
 */
import type { ByteStream } from "../base/byte-stream.ts";
import { describeError, SandboxError } from "../base/errors.ts";
import { decodeResponse, encodeRequestFrame, type MetadataInit } from "./envelope.ts";
import { TtrpcError } from "./errors.ts";
import { FrameDecoder, type FrameHeader, FrameType, MAX_DATA_LENGTH, MAX_STREAM_ID } from "./frame.ts";
import { FrameWriter } from "./frame-writer.ts";

export interface CallOptions {
  /** Gives the call up; the promise rejects with the signal's SandboxError reason or ERR_CANCELED. */
  readonly signal?: AbortSignal;
  /** Milliseconds until the call is given up with ERR_DEADLINE; the peer is told too. Absent: no limit. */
  readonly timeoutMs?: number;
  readonly metadata?: MetadataInit;
}

export interface ClientOptions {
  /** Names the peer in errors: "the guest agent". */
  readonly peer?: string;
  /** Calls that may wait for an answer at one time; more fail with ERR_EXHAUSTED. Default 4096. */
  readonly maxPendingCalls?: number;
  /** Bytes of requests that may wait to be sent; more fail with ERR_EXHAUSTED. Default 16 MiB. */
  readonly maxQueuedBytes?: number;
  /** Bytes of data in one answer, at most ttrpc's own 4 MiB (the default); a larger one fails its call. */
  readonly maxMessageBytes?: number;
}

/** Longest delay that setTimeout keeps (32-bit signed, WHATWG HTML timers); longer limits have no local timer. */
export const MAX_TIMER_MS = 0x7fff_ffff;

interface PendingCall {
  readonly method: string;
  settle(outcome: { readonly payload: Uint8Array } | { readonly error: SandboxError }): void;
}

export class TtrpcClient {
  readonly #stream: ByteStream;
  readonly #writer: FrameWriter;
  readonly #peer: string;
  readonly #maxPendingCalls: number;
  readonly #maxQueuedBytes: number;
  readonly #maxMessageBytes: number;
  readonly #pending = new Map<number, PendingCall>();
  #nextStreamId = 1;
  #failure: SandboxError | undefined;
  #announceClosed: (failure: SandboxError) => void = () => undefined;

  /** Resolves (never rejects) with the reason when the connection is over; no call is pending then. */
  readonly closed: Promise<SandboxError>;

  constructor(stream: ByteStream, options: ClientOptions = {}) {
    this.#stream = stream;
    this.#peer = options.peer ?? "the ttrpc server";
    this.#maxPendingCalls = options.maxPendingCalls ?? 4096;
    this.#maxQueuedBytes = options.maxQueuedBytes ?? 16 << 20;
    this.#maxMessageBytes = Math.min(options.maxMessageBytes ?? MAX_DATA_LENGTH, MAX_DATA_LENGTH);
    this.closed = new Promise((resolve) => {
      this.#announceClosed = resolve;
    });
    this.#writer = new FrameWriter(stream, (error) => this.#fail(error));
    void this.#receive();
  }

  /** Number of calls that wait for their answer. */
  get pendingCalls(): number {
    return this.#pending.size;
  }

  /**
   * One unary call.
   * @param payload the encoded input message; must not be changed afterwards.
   * @returns the encoded output message, possibly a view into a larger buffer.
   * @throws TtrpcError what the peer answered; SandboxError ERR_DEADLINE, ERR_CANCELED, ERR_UNAVAILABLE (the
   *   connection is over), ERR_FRAME_TOO_LARGE, ERR_EXHAUSTED, ERR_PROTOCOL (the peer broke the protocol).
   */
  async call(
    service: string,
    method: string,
    payload: Uint8Array,
    options: CallOptions = {},
  ): Promise<Uint8Array> {
    const name = `${service}/${method}`;
    if (this.#failure !== undefined) throw this.#failure;
    if (options.signal?.aborted === true) throw cancelReason(name, options.signal);
    const { timeoutMs } = options;
    if (timeoutMs !== undefined && timeoutMs <= 0) throw deadlineError(name, timeoutMs);
    this.#checkRoom(name);
    const frame = encodeRequestFrame(this.#nextStreamId, 0, {
      service,
      method,
      payload,
      ...(timeoutMs !== undefined && Number.isFinite(timeoutMs)
        ? { timeoutNano: BigInt(Math.ceil(timeoutMs * 1e6)) }
        : {}),
      ...(options.metadata === undefined ? {} : { metadata: options.metadata }),
    });
    // Taken only now: a request that could not be encoded leaves no gap, and frames are sent in the order of ids.
    const streamId = this.#nextStreamId;
    this.#nextStreamId += 2;
    return await this.#dispatch(streamId, frame, name, options);
  }

  /**
   * Ends the connection at once; pending calls fail with `reason` (default ERR_UNAVAILABLE). Idempotent.
   */
  close(reason?: SandboxError): void {
    this.#fail(
      reason ??
        new SandboxError("ERR_UNAVAILABLE", `the connection to ${this.#peer} was closed on this side`),
    );
  }

  #checkRoom(name: string): void {
    if (this.#pending.size >= this.#maxPendingCalls) {
      throw new SandboxError(
        "ERR_EXHAUSTED",
        `cannot call ${name}: ${this.#pending.size} calls to ${this.#peer} are still unanswered`,
      );
    }
    if (this.#writer.queuedBytes > this.#maxQueuedBytes) {
      throw new SandboxError(
        "ERR_EXHAUSTED",
        `cannot call ${name}: ${this.#peer} has not read ${this.#writer.queuedBytes} bytes sent earlier`,
      );
    }
    if (this.#nextStreamId > MAX_STREAM_ID) {
      throw new SandboxError(
        "ERR_EXHAUSTED",
        `the connection to ${this.#peer} has used up its stream ids; open a new one`,
      );
    }
  }

  #dispatch(streamId: number, frame: Uint8Array, name: string, options: CallOptions): Promise<Uint8Array> {
    const { signal, timeoutMs } = options;
    return new Promise<Uint8Array>((resolve, reject) => {
      let timer: ReturnType<typeof setTimeout> | undefined;
      const onAbort = () => pending.settle({ error: cancelReason(name, signal) });
      const pending: PendingCall = {
        method: name,
        settle: (outcome) => {
          if (!this.#pending.delete(streamId)) return;
          if (timer !== undefined) clearTimeout(timer);
          signal?.removeEventListener("abort", onAbort);
          if ("error" in outcome) reject(outcome.error);
          else resolve(outcome.payload);
        },
      };
      this.#pending.set(streamId, pending);
      signal?.addEventListener("abort", onAbort);
      if (timeoutMs !== undefined && timeoutMs <= MAX_TIMER_MS) {
        timer = setTimeout(() => pending.settle({ error: deadlineError(name, timeoutMs) }), timeoutMs);
      }
      this.#writer.send(frame);
    });
  }

  async #receive(): Promise<void> {
    const sink = {
      onFrame: (header: FrameHeader, data: Uint8Array) => this.#onFrame(header, data),
      onOversize: (header: FrameHeader) => this.#onOversize(header),
    };
    const decoder = new FrameDecoder(sink, this.#maxMessageBytes);
    try {
      for await (const chunk of this.#stream.readable) {
        decoder.push(chunk);
        if (this.#failure !== undefined) return;
      }
      decoder.end();
      this.#fail(new SandboxError("ERR_UNAVAILABLE", `${this.#peer} closed the connection`));
    } catch (error) {
      this.#fail(error);
    }
  }

  #onFrame(header: FrameHeader, data: Uint8Array): void {
    // An unknown id is the late answer to a call that was given up.
    const pending = this.#pending.get(header.streamId);
    if (pending === undefined) return;
    if (header.type !== FrameType.Response) {
      // Types this version does not know are ignored, so that later versions may add some.
      if (header.type === FrameType.Data || header.type === FrameType.Request) {
        const kind = header.type === FrameType.Data ? "stream data" : "a request";
        pending.settle({ error: this.#violation(`answered the unary call ${pending.method} with ${kind}`) });
      }
      return;
    }
    try {
      const { status, payload } = decodeResponse(data);
      if (status !== undefined && status.code !== 0) {
        pending.settle({ error: new TtrpcError(status, pending.method) });
      } else {
        pending.settle({ payload });
      }
    } catch (error) {
      pending.settle({ error: this.#violation(`sent an unreadable answer to ${pending.method}`, error) });
    }
  }

  #onOversize(header: FrameHeader): void {
    const pending = this.#pending.get(header.streamId);
    pending?.settle({
      error: new SandboxError(
        "ERR_FRAME_TOO_LARGE",
        `the answer to ${pending.method} has ${header.length} bytes, more than the ${this.#maxMessageBytes} allowed`,
      ),
    });
  }

  #violation(what: string, cause?: unknown): SandboxError {
    return new SandboxError("ERR_PROTOCOL", `${this.#peer} ${what}`, cause === undefined ? {} : { cause });
  }

  #fail(reason: unknown): void {
    if (this.#failure !== undefined) return;
    const failure =
      reason instanceof SandboxError
        ? reason
        : new SandboxError(
            "ERR_UNAVAILABLE",
            `the connection to ${this.#peer} broke: ${describeError(reason)}`,
            { cause: reason },
          );
    this.#failure = failure;
    this.#writer.stop();
    this.#stream.destroy();
    for (const pending of [...this.#pending.values()]) pending.settle({ error: failure });
    this.#announceClosed(failure);
  }
}

function deadlineError(name: string, timeoutMs: number): SandboxError {
  return new SandboxError("ERR_DEADLINE", `${name} took longer than ${timeoutMs} ms`);
}

function cancelReason(name: string, signal: AbortSignal | undefined): SandboxError {
  const reason: unknown = signal?.reason;
  if (reason instanceof SandboxError) return reason;
  return new SandboxError("ERR_CANCELED", `${name} was canceled`, { cause: reason });
}
