/**
 * Tracing in the guest: a call that comes with a traceparent is reported to the host as a span when it ends, and what it
 * logs carries its trace. A call without one costs a look into its metadata.
 *
 * QuickJS has nothing that follows a call through its awaits, so the current call is known up to its first await; who
 * logs behind one does it with the log of the call (callLog), or goes on with within().
 */
import * as sys from "sys";
import { describeError } from "../../src/base/errors.ts";
import type { Log } from "../../src/base/log.ts";
import { logField } from "../../src/base/log-fields.ts";
import { parseTraceparent, TRACEPARENT, type TraceContext } from "../../src/base/trace.ts";
import type { CallContext } from "../../src/ttrpc/index.ts";

export interface CallSpan {
  readonly parentSpanId: string;
  readonly name: string;
  readonly startUnixNano: bigint;
  readonly endUnixNano: bigint;
  readonly error: string;
}

let current: TraceContext | undefined;

/** The call whose code runs now, if it is traced. */
export const currentCall = (): TraceContext | undefined => current;
/** Its trace; empty for none. */
export const currentTraceId = (): string => current?.traceId ?? "";

/** A log for what the current call does behind an await. */
export const callLog = (log: Log): Log =>
  current === undefined ? log : log.child({ [logField.trace]: current.traceId });

/** Runs `work` up to its first await as a part of `call`. */
export function within<T>(call: TraceContext | undefined, work: () => T): T {
  const before = current;
  current = call;
  try {
    return work();
  } finally {
    current = before;
  }
}

/** The same handlers, those of traced calls reporting spans. */
export function withTracing<T extends object>(handlers: T, report: (span: CallSpan) => void): T {
  const traced = Object.entries(handlers).map(([name, value]) => {
    // One of ServiceHandlers, whose arguments are passed on as they came.
    const handler = value as (request: unknown, context: CallContext) => unknown;
    const guard = (request: unknown, context: CallContext): unknown => {
      const text = context.metadata.get(TRACEPARENT)?.[0];
      const call = text === undefined ? undefined : parseTraceparent(text);
      if (call === undefined) return handler.call(handlers, request, context);
      context.traceId = call.traceId;
      return spanOf(name, call, report, () => handler.call(handlers, request, context));
    };
    return [name, guard];
  });
  return Object.fromEntries(traced) as T;
}

async function spanOf(
  name: string,
  call: TraceContext,
  report: (span: CallSpan) => void,
  work: () => unknown,
): Promise<unknown> {
  const startUnixNano = sys.realtimeNs();
  let error = "";
  try {
    return await within(call, work);
  } catch (failure) {
    error = describeError(failure) || "failed";
    throw failure;
  } finally {
    report({ parentSpanId: call.spanId, name, startUnixNano, endUnixNano: sys.realtimeNs(), error });
  }
}
