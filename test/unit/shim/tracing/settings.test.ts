/** Where spans go. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { formatTraceparent, parseTraceparent } from "../../../../src/base/trace.ts";
import { exportSettings } from "../../../../src/shim/tracing/settings.ts";

const urlOf = (configured: string, environment: Record<string, string> = {}) => {
  const settings = exportSettings(configured, environment);
  return typeof settings === "object" ? settings.url : settings;
};

test("nothing is exported unless somebody asks for it", () => {
  assert.equal(urlOf(""), undefined);
  assert.equal(urlOf("none", { OTEL_EXPORTER_OTLP_ENDPOINT: "http://a" }), undefined);
  assert.equal(urlOf("", { OTEL_EXPORTER_OTLP_ENDPOINT: "http://a", OTEL_SDK_DISABLED: "true" }), undefined);
  assert.equal(
    urlOf("", { OTEL_EXPORTER_OTLP_ENDPOINT: "http://a", OTEL_TRACES_EXPORTER: "none" }),
    undefined,
  );
});

test("the configuration goes before the environment, the variable for traces before the general one", () => {
  const base = { OTEL_EXPORTER_OTLP_ENDPOINT: "http://a:4318/" };
  assert.equal(urlOf("", base), "http://a:4318/v1/traces");
  assert.equal(
    urlOf("", { ...base, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: "https://b/spans" }),
    "https://b/spans",
  );
  assert.equal(urlOf("http://c:1", base), "http://c:1/v1/traces");
});

test("an endpoint that cannot take OTLP over HTTP is refused with a sentence", () => {
  assert.match(
    urlOf("", { OTEL_EXPORTER_OTLP_ENDPOINT: "http://a:4317", OTEL_EXPORTER_OTLP_PROTOCOL: "grpc" }) ?? "",
    /set otlp_endpoint/,
  );
  assert.match(urlOf("", { OTEL_EXPORTER_OTLP_ENDPOINT: "a:4318" }) ?? "", /no address/);
});

test("headers are taken from the environment, decoded; what is no header is left out", () => {
  const settings = exportSettings("http://a", {
    OTEL_EXPORTER_OTLP_HEADERS: "Authorization=Basic%20eA==, x-y = 1,=2,a b=3,x-z=%0d%0aInjected: 1",
  });
  assert.ok(typeof settings === "object");
  assert.deepEqual(settings.headers, { authorization: "Basic eA==", "x-y": "1" });
});

test("a traceparent is read as W3C Trace Context has it", () => {
  const traceId = "4bf92f3577b34da6a3ce929d0e0e4736";
  const spanId = "00f067aa0ba902b7";
  assert.deepEqual(parseTraceparent(`00-${traceId}-${spanId}-01`), { traceId, spanId, sampled: true });
  assert.deepEqual(parseTraceparent(`00-${traceId}-${spanId}-02`), { traceId, spanId, sampled: false });
  assert.deepEqual(parseTraceparent(`cc-${traceId}-${spanId}-01-more`), { traceId, spanId, sampled: true });
  for (const wrong of [
    "",
    "00",
    `ff-${traceId}-${spanId}-01`,
    `00-${"0".repeat(32)}-${spanId}-01`,
    `00-${traceId}-${"0".repeat(16)}-01`,
    `00-${traceId.toUpperCase()}-${spanId}-01`,
    `00-${traceId}-${spanId}`,
  ])
    assert.equal(parseTraceparent(wrong), undefined, wrong);
  assert.equal(formatTraceparent({ traceId, spanId }), `00-${traceId}-${spanId}-01`);
});
