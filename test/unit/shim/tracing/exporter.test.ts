/** The exporter against a real HTTP server: what a bad collector may cost. */
import assert from "node:assert/strict";
import http from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import { silentLog } from "../../../../src/base/log.ts";
import { type ExporterTuning, SpanExporter } from "../../../../src/shim/tracing/exporter.ts";
import type { FinishedSpan } from "../../../../src/shim/tracing/otlp.ts";

const span: FinishedSpan = {
  traceId: "1".repeat(32),
  spanId: "2".repeat(16),
  parentSpanId: "",
  name: "work",
  kind: "internal",
  startUnixNano: 1n,
  endUnixNano: 2n,
  attributes: {},
  error: "",
  service: "caisson-shim",
};

/** A collector that does `answer`; the bodies it got. */
async function collector(answer: (response: http.ServerResponse) => void) {
  const bodies: { resourceSpans: { scopeSpans: { spans: unknown[] }[] }[] }[] = [];
  const server = http.createServer((request, response) => {
    let text = "";
    request.on("data", (chunk: Buffer) => {
      text += chunk.toString();
    });
    request.on("end", () => {
      bodies.push(JSON.parse(text));
      answer(response);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${port}/v1/traces`,
    counts: () => bodies.map(({ resourceSpans }) => resourceSpans[0]?.scopeSpans[0]?.spans.length),
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

function exporterTo(url: string, tuning: Partial<ExporterTuning> = {}) {
  const warnings: string[] = [];
  const log = { ...silentLog, warn: (_: unknown, message: string) => void warnings.push(message) };
  const facts = { version: "1", hostName: "h", attributes: {} };
  return { exporter: new SpanExporter({ settings: { url, headers: {} }, facts, log, tuning }), warnings };
}

const add = (exporter: SpanExporter, count: number) => {
  for (let i = 0; i < count; i++) exporter.add(span);
};

test("a collector that never answers delays the end by the limit of close(), not by that of a request", async (t) => {
  let asked = () => undefined as unknown;
  const requested = new Promise((resolve) => {
    asked = () => resolve(undefined);
  });
  await using sink = await collector(() => asked());
  // In the first test: a timer of another one could not be cleared meanwhile.
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const { exporter } = exporterTo(sink.url, { maxBatch: 2, requestMs: 10_000 });
  add(exporter, 6);
  await requested;
  let closed = false;
  const closing = exporter.close(1_000).then(() => {
    closed = true;
  });
  t.mock.timers.tick(999);
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(closed, false);
  // Neither the request under way nor those behind it get time of their own.
  t.mock.timers.tick(1);
  await closing;
  assert.deepEqual(exporter.counts, { exported: 0, dropped: 6 });
});

test("spans go out in batches, the rest when it is closed", async () => {
  await using sink = await collector((response) => response.writeHead(200).end("{}"));
  const { exporter, warnings } = exporterTo(sink.url, { maxBatch: 4 });
  add(exporter, 10);
  await exporter.close(5_000);
  assert.deepEqual(sink.counts(), [4, 4, 2]);
  assert.deepEqual([exporter.counts, warnings], [{ exported: 10, dropped: 0 }, []]);
  add(exporter, 1);
  assert.deepEqual(exporter.counts, { exported: 10, dropped: 1 });
});

test("a refused batch is lost and counted, the next is sent", async () => {
  const statuses = [503, 200];
  await using sink = await collector((response) => response.writeHead(statuses.shift() ?? 200).end());
  const { exporter, warnings } = exporterTo(sink.url, { maxBatch: 2 });
  add(exporter, 4);
  await exporter.close(5_000);
  assert.deepEqual(exporter.counts, { exported: 2, dropped: 2 });
  assert.deepEqual(warnings, ["spans were lost: the collector answered with status 503"]);
});

test("nobody there: add() never throws, and close() ends", async () => {
  const sink = await collector(() => undefined);
  await sink[Symbol.asyncDispose]();
  const { exporter, warnings } = exporterTo(sink.url);
  add(exporter, 3);
  await exporter.close(5_000);
  assert.deepEqual(exporter.counts, { exported: 0, dropped: 3 });
  assert.match(warnings[0] ?? "", /spans were lost: .*ECONNREFUSED/);
});

test("a collector that never answers: the queue is bounded, close() keeps to its limit", async () => {
  await using sink = await collector(() => undefined);
  const { exporter } = exporterTo(sink.url, { maxBatch: 2, maxQueued: 5 });
  // Two are under way, five wait, three are too many.
  add(exporter, 10);
  assert.deepEqual(exporter.counts, { exported: 0, dropped: 3 });
  await exporter.close(50);
  assert.deepEqual(exporter.counts, { exported: 0, dropped: 10 });
});

test("an answer that breaks off is a lost batch", async () => {
  await using sink = await collector((response) => {
    response.writeHead(200, { "content-length": "10" }).write("x");
    setTimeout(() => response.destroy(), 10);
  });
  const { exporter } = exporterTo(sink.url);
  add(exporter, 2);
  await exporter.close(5_000);
  assert.deepEqual(exporter.counts, { exported: 0, dropped: 2 });
});
