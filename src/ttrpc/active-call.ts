/** One call in progress on the answering side: its deadline, its abort signal and its one answer. Portable. */
import { SandboxError } from "../base/errors.ts";
import { MAX_TIMER_MS } from "./client.ts";
import { encodeResponseFrame, type Metadata, type RequestEnvelope } from "./envelope.ts";
import { statusOf } from "./errors.ts";
import type { CallContext } from "./service.ts";

const noBytes = new Uint8Array(0);

/** The response frame for an error. */
export function errorFrame(streamId: number, error: unknown): Uint8Array {
  return encodeResponseFrame(streamId, { status: statusOf(error), payload: noBytes });
}

/** "service/method". */
export const nameOf = ({ service, method }: Pick<RequestEnvelope, "service" | "method">): string =>
  `${service}/${method}`;

export class ActiveCall implements CallContext {
  readonly requestBytes: number;
  readonly service: string;
  readonly method: string;
  readonly metadata: Metadata;
  readonly deadline: number | undefined;
  traceId?: string;
  readonly #streamId: number;
  readonly #send: (frame: Uint8Array) => void;
  /** Made when somebody asks for the signal, which few handlers do. */
  #controller: AbortController | undefined;
  #abortedBy: SandboxError | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #answered = false;

  /**
   * @param startedAt by performance.now().
   * @param send called at most once, with the response frame.
   */
  constructor(
    streamId: number,
    request: RequestEnvelope,
    requestBytes: number,
    startedAt: number,
    send: (frame: Uint8Array) => void,
  ) {
    this.requestBytes = requestBytes;
    this.service = request.service;
    this.method = request.method;
    this.metadata = request.metadata;
    this.#streamId = streamId;
    this.#send = send;
    this.deadline = this.#armDeadline(request.timeoutNano, startedAt);
  }

  get name(): string {
    return nameOf(this);
  }

  get answered(): boolean {
    return this.#answered;
  }

  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      if (this.#abortedBy !== undefined) this.#controller.abort(this.#abortedBy);
    }
    return this.#controller.signal;
  }

  /** Answers with an output message. @throws SandboxError ERR_FRAME_TOO_LARGE; the call is then still unanswered. */
  succeed(payload: Uint8Array): void {
    if (!this.#answered) this.#answer(encodeResponseFrame(this.#streamId, { payload }));
  }

  /** Answers with an error, unless the call was answered already. */
  fail(error: unknown): void {
    if (!this.#answered) this.#answer(errorFrame(this.#streamId, error));
  }

  /** Answers with an error and tells the handler that its work is of no use any more. */
  abandon(error: SandboxError): void {
    // The answer goes first: a handler that reacts to the signal may throw something that says less.
    this.fail(error);
    this.#abort(error);
  }

  /** As abandon(), when nobody is there to answer to. */
  disconnect(error: SandboxError): void {
    this.#answered = true;
    this.settled();
    this.#abort(error);
  }

  /** Lets the deadline's timer go; to be called when the handler has settled. */
  settled(): void {
    if (this.#timer !== undefined) clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #abort(error: SandboxError): void {
    this.#abortedBy ??= error;
    this.#controller?.abort(this.#abortedBy);
  }

  #answer(frame: Uint8Array): void {
    this.#answered = true;
    this.#send(frame);
  }

  /** @returns the deadline by performance.now(); undefined without one. */
  #armDeadline(timeoutNano: bigint, startedAt: number): number | undefined {
    if (timeoutNano === 0n) return undefined;
    const limitMs = Math.max(0, Number(timeoutNano) / 1e6);
    if (limitMs <= MAX_TIMER_MS) {
      const expire = () =>
        this.abandon(
          new SandboxError("ERR_DEADLINE", `${this.name} took longer than its caller's ${limitMs} ms`),
        );
      this.#timer = setTimeout(expire, limitMs);
    }
    return startedAt + limitMs;
  }
}
