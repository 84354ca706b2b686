/**
 * Where work is told to the tracer of this process, if it has one. Portable.
 *
 * Without a tracer, which is the rule, traced() is a call of its argument and nothing else. The identifiers are those of
 * W3C Trace Context (https://www.w3.org/TR/trace-context/), in lower-case hex.
 */

/** Key of a ttrpc call's metadata that says which span the call belongs to. */
export const TRACEPARENT = "traceparent";

export interface TraceContext {
  /** 32 digits, not all 0. */
  readonly traceId: string;
  /** 16 digits, not all 0. */
  readonly spanId: string;
}

export type SpanAttributes = Readonly<Record<string, string | number | boolean>>;

export interface SpanOptions {
  /** client: the other side is told by TRACEPARENT and reports a span of its own. Default internal. */
  readonly kind?: "internal" | "client";
  readonly attributes?: SpanAttributes;
  /** Code that is in no span (what earlier requests left running) is in this one, then in those around it, while they last. */
  readonly adopts?: boolean;
}

export interface Tracer {
  /** A span around `work` that ends when its promise settles; a plain call where no request is being traced. */
  run<T>(name: string, options: SpanOptions, work: () => Promise<T>): Promise<T>;
  /** The span that the calling code runs in, while it lasts. */
  current(): TraceContext | undefined;
  /** A span that has ended, as a child of the current one. Times in milliseconds since the epoch. */
  ended(name: string, startMs: number, endMs: number): void;
  /** A span that the guest reports. */
  reported(span: ReportedSpan): void;
  /** Waits for the guest's reports of calls that it has just answered; for each up to `limitMs` from its answer. */
  reportsIn(limitMs: number): Promise<void>;
}

/** What the guest says of a call: its word, not yet checked. */
export interface ReportedSpan {
  /** The span in the call's TRACEPARENT. */
  readonly parentSpanId: string;
  readonly name: string;
  /** By the guest's clock. */
  readonly startUnixNano: bigint;
  readonly endUnixNano: bigint;
  /** Empty for success. */
  readonly error: string;
}

let tracer: Tracer | undefined;

/** The tracer of this process from now on. */
export function installTracer(installed: Tracer | undefined): void {
  tracer = installed;
}

/** `work()`, as a span of the request that the calling code serves when that is traced. */
export function traced<T>(name: string, work: () => Promise<T>, options: SpanOptions = {}): Promise<T> {
  return tracer === undefined ? work() : tracer.run(name, options, work);
}

export const currentTrace = (): TraceContext | undefined => tracer?.current();
export const spanEnded = (name: string, startMs: number, endMs: number): void =>
  tracer?.ended(name, startMs, endMs);
export const reportsIn = (limitMs: number): Promise<void> => tracer?.reportsIn(limitMs) ?? Promise.resolve();
export const spanReported = (span: ReportedSpan): void => tracer?.reported(span);

/** version 00 "-" trace-id "-" parent-id "-" flags; later versions may append fields. */
const TRACEPARENT_FORM = /^(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?$/;
const ZEROS = /^0+$/;

/** The span that a caller names, and whether it is recorded; undefined when the text is no traceparent. Pure. */
export function parseTraceparent(text: string): (TraceContext & { readonly sampled: boolean }) | undefined {
  const [, traceId = "", spanId = "", flags = ""] = TRACEPARENT_FORM.exec(text) ?? [];
  if (traceId === "" || ZEROS.test(traceId) || ZEROS.test(spanId)) return undefined;
  return { traceId, spanId, sampled: (Number.parseInt(flags, 16) & 1) === 1 };
}

/** For a span that is recorded. Pure. */
export const formatTraceparent = ({ traceId, spanId }: TraceContext): string => `00-${traceId}-${spanId}-01`;
