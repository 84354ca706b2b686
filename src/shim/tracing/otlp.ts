/**
 * Spans as OTLP in JSON: opentelemetry-proto trace/v1/trace.proto in the JSON form of the OTLP specification, where ids
 * are hex, enums are numbers and 64-bit integers are decimal strings. Pure.
 */
import type { SpanAttributes } from "../../base/trace.ts";

/** Of Span.SpanKind. */
export const SpanKind = { internal: 1, server: 2, client: 3 } as const;

export interface FinishedSpan {
  readonly traceId: string;
  readonly spanId: string;
  /** Empty for a root. */
  readonly parentSpanId: string;
  readonly name: string;
  readonly kind: keyof typeof SpanKind;
  readonly startUnixNano: bigint;
  readonly endUnixNano: bigint;
  readonly attributes: SpanAttributes;
  /** Empty for success. */
  readonly error: string;
  /** Whose span it is: the shim's or that of the agent in its guest. */
  readonly service: "caisson-shim" | "caisson-agent";
}

export interface ResourceFacts {
  readonly version: string;
  readonly hostName: string;
  readonly attributes: SpanAttributes;
}

/** Of Status.StatusCode. */
const STATUS_ERROR = 2;
/** SPAN_FLAGS: sampled. */
const FLAG_SAMPLED = 1;

/** The body of one request: an ExportTraceServiceRequest. */
export function exportRequest(spans: readonly FinishedSpan[], facts: ResourceFacts): string {
  const services = [...new Set(spans.map(({ service }) => service))];
  return JSON.stringify({
    resourceSpans: services.map((service) => ({
      resource: {
        attributes: keyValues({
          "service.name": service,
          "service.version": facts.version,
          "host.name": facts.hostName,
          ...facts.attributes,
        }),
      },
      scopeSpans: [
        {
          scope: { name: "caisson", version: facts.version },
          spans: spans.filter((span) => span.service === service).map(spanMessage),
        },
      ],
    })),
  });
}

function spanMessage(span: FinishedSpan) {
  return {
    traceId: span.traceId,
    spanId: span.spanId,
    ...(span.parentSpanId !== "" && { parentSpanId: span.parentSpanId }),
    flags: FLAG_SAMPLED,
    name: span.name,
    kind: SpanKind[span.kind],
    startTimeUnixNano: String(span.startUnixNano),
    endTimeUnixNano: String(span.endUnixNano),
    attributes: keyValues(span.attributes),
    ...(span.error !== "" && { status: { code: STATUS_ERROR, message: span.error } }),
  };
}

function keyValues(attributes: SpanAttributes) {
  return Object.entries(attributes).map(([key, value]) => ({ key, value: anyValue(value) }));
}

function anyValue(value: string | number | boolean) {
  if (typeof value === "string") return { stringValue: value };
  if (typeof value === "boolean") return { boolValue: value };
  return Number.isSafeInteger(value) ? { intValue: String(value) } : { doubleValue: value };
}
