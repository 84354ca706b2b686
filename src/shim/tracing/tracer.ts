/**
 * The tracer of a shim: spans of the requests that it serves, found again in everything that a request does through
 * Node's AsyncLocalStorage. A span ends with its work; code that goes on behind it (a connection that was opened by a
 * request, say) belongs to the spans around it for as long as they last, then to none, but for one that adopts it: what
 * a child process of the sandbox says while a request ends it is of that request.
 */
import { AsyncLocalStorage } from "node:async_hooks";
import { randomBytes } from "node:crypto";
import { describeError } from "../../base/errors.ts";
import type { ReportedSpan, SpanAttributes, SpanOptions, TraceContext, Tracer } from "../../base/trace.ts";
import type { FinishedSpan } from "./otlp.ts";

interface LiveSpan extends TraceContext {
  readonly startNs: bigint;
  /** The span around it. */
  readonly within: LiveSpan | undefined;
  ended: boolean;
  /** performance.now() of the guest's answer, for a call that it has answered. */
  answeredAtMs?: number;
}

interface NewSpan {
  readonly name: string;
  readonly kind: FinishedSpan["kind"];
  readonly attributes: SpanAttributes;
  /** undefined: the span begins a trace. */
  readonly parent: TraceContext | undefined;
  readonly startNs: bigint;
}

/** Calls to the guest whose spans may still be reported. */
const MAX_AWAITED = 1024;
/** Characters of a name or message that the guest chose. */
const MAX_GUEST_TEXT = 256;

/** Nanoseconds since the epoch, with the resolution of the monotonic clock. */
const nowNs = (): bigint => originNs + process.hrtime.bigint();
const originNs = BigInt(Date.now()) * 1_000_000n - process.hrtime.bigint();

export class ShimTracer implements Tracer {
  readonly #current = new AsyncLocalStorage<LiveSpan>();
  /** The last one that adopts. */
  #adopting: LiveSpan | undefined;
  readonly #export: (span: FinishedSpan) => void;
  /** Spans whose id went to the guest, oldest first. */
  readonly #awaited = new Map<string, LiveSpan>();
  /** Called at each report. */
  readonly #onReport = new Set<() => void>();

  constructor(toExporter: (span: FinishedSpan) => void) {
    this.#export = toExporter;
  }

  current(): TraceContext | undefined {
    return lasting(this.#current.getStore()) ?? lasting(this.#adopting);
  }

  run<T>(
    name: string,
    { kind = "internal", attributes = {}, adopts = false }: SpanOptions,
    work: () => Promise<T>,
  ): Promise<T> {
    const parent = this.current();
    if (parent === undefined) return work();
    return this.#measure({ name, kind, attributes, parent, startNs: nowNs() }, work, adopts);
  }

  /**
   * The span of a request that came from outside.
   * @param parent the caller's span; undefined begins a trace.
   * @param ageMs milliseconds since the request came.
   */
  serve<T>(
    name: string,
    parent: TraceContext | undefined,
    attributes: SpanAttributes,
    ageMs: number,
    work: (span: TraceContext) => Promise<T>,
  ): Promise<T> {
    const startNs = nowNs() - BigInt(Math.round(ageMs * 1e6));
    return this.#measure({ name, kind: "server", attributes, parent, startNs }, work);
  }

  ended(name: string, startMs: number, endMs: number): void {
    const parent = this.current();
    if (parent === undefined) return;
    const toNs = (ms: number) => BigInt(Math.round(ms * 1e3)) * 1_000n;
    const span = { name, kind: "internal", attributes: {}, parent, startNs: toNs(startMs) } as const;
    this.#finish(span, newSpanId(), parent.traceId, toNs(endMs), "", "caisson-agent");
  }

  reported({ parentSpanId, name, startUnixNano, endUnixNano, error }: ReportedSpan): void {
    const parent = this.#awaited.get(parentSpanId);
    // Not a call of ours, or one reported already: the guest cannot add to traces at will.
    if (parent === undefined || endUnixNano < startUnixNano) return;
    this.#awaited.delete(parentSpanId);
    // The guest's clock was set from ours and has run on its own since: what it did it did after we asked.
    const startNs = startUnixNano < parent.startNs ? parent.startNs : startUnixNano;
    const span = {
      name: name.slice(0, MAX_GUEST_TEXT),
      kind: "server",
      attributes: {},
      parent,
      startNs,
    } as const;
    const endNs = startNs + (endUnixNano - startUnixNano);
    this.#finish(span, newSpanId(), parent.traceId, endNs, error.slice(0, MAX_GUEST_TEXT), "caisson-agent");
    for (const look of this.#onReport) look();
  }

  async reportsIn(limitMs: number): Promise<void> {
    const since = performance.now() - limitMs;
    const late = [...this.#awaited].filter(([, { answeredAtMs = since }]) => answeredAtMs > since);
    if (late.length === 0) return;
    const lastMs = Math.max(...late.map(([, { answeredAtMs = since }]) => answeredAtMs)) - since;
    await new Promise<void>((resolve) => {
      const done = () => {
        clearTimeout(timer);
        this.#onReport.delete(look);
        resolve();
      };
      const look = () => {
        if (!late.some(([id]) => this.#awaited.has(id))) done();
      };
      const timer = setTimeout(done, lastMs);
      this.#onReport.add(look);
    });
  }

  async #measure<T>(init: NewSpan, work: (span: TraceContext) => Promise<T>, adopts = false): Promise<T> {
    const span: LiveSpan = {
      traceId: init.parent?.traceId ?? randomBytes(16).toString("hex"),
      spanId: newSpanId(),
      startNs: init.startNs,
      within: lasting(this.#current.getStore()),
      ended: false,
    };
    if (adopts) this.#adopting = span;
    if (init.kind === "client") this.#await(span);
    let failure = "";
    try {
      const result = await this.#current.run(span, () => work(span));
      span.answeredAtMs = performance.now();
      return result;
    } catch (error) {
      failure = describeError(error) || "failed";
      throw error;
    } finally {
      span.ended = true;
      this.#finish(init, span.spanId, span.traceId, nowNs(), failure, "caisson-shim");
    }
  }

  #await(span: LiveSpan): void {
    this.#awaited.set(span.spanId, span);
    if (this.#awaited.size <= MAX_AWAITED) return;
    for (const oldest of this.#awaited.keys()) {
      this.#awaited.delete(oldest);
      return;
    }
  }

  #finish(
    { name, kind, attributes, parent, startNs }: NewSpan,
    spanId: string,
    traceId: string,
    endNs: bigint,
    error: string,
    service: FinishedSpan["service"],
  ): void {
    const parentSpanId = parent?.spanId ?? "";
    const times = { startUnixNano: startNs, endUnixNano: endNs };
    this.#export({ traceId, spanId, parentSpanId, name, kind, attributes, error, service, ...times });
  }
}

/** `span`, or the innermost around it that has not ended. */
function lasting(span: LiveSpan | undefined): LiveSpan | undefined {
  let found = span;
  while (found?.ended === true) found = found.within;
  return found;
}

const newSpanId = (): string => randomBytes(8).toString("hex");
