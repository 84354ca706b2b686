/** Spans and their parents through awaits, and what a guest may add. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { FinishedSpan } from "../../../../src/shim/tracing/otlp.ts";
import { ShimTracer } from "../../../../src/shim/tracing/tracer.ts";

function tracer() {
  const spans: FinishedSpan[] = [];
  return { spans, tracer: new ShimTracer((span) => spans.push(span)) };
}

const reported = { name: "startProcess", startUnixNano: 5n, endUnixNano: 7n, error: "" };

test("requests that run side by side have traces of their own", async () => {
  const { spans, tracer: it } = tracer();
  const request = (name: string) =>
    it.serve(name, undefined, {}, 0, async () => {
      await sleep(1);
      await it.run(`${name} inner`, {}, async () => await sleep(1));
    });
  await Promise.all([request("a"), request("b")]);
  for (const name of ["a", "b"]) {
    const outer = spans.find((span) => span.name === name);
    const inner = spans.find((span) => span.name === `${name} inner`);
    assert.ok(outer !== undefined && inner !== undefined);
    assert.deepEqual([inner.parentSpanId, inner.traceId], [outer.spanId, outer.traceId]);
    assert.ok(outer.startUnixNano <= inner.startUnixNano && inner.endUnixNano <= outer.endUnixNano);
  }
  assert.equal(new Set(spans.map(({ traceId }) => traceId)).size, 2);
});

test("what goes on after its request belongs to none", async () => {
  const { spans, tracer: it } = tracer();
  let late: Promise<unknown> | undefined;
  await it.serve("request", undefined, {}, 0, async () => {
    late = sleep(5).then(async () => {
      assert.equal(it.current(), undefined);
      await it.run("late", {}, async () => undefined);
    });
  });
  await late;
  assert.deepEqual(
    spans.map(({ name }) => name),
    ["request"],
  );
});

test("what goes on after its span is of the request around it, and after that of one that adopts", async () => {
  const { spans, tracer: it } = tracer();
  const left: string[] = [];
  let speak = () => undefined as unknown;
  const traceNow = () => it.current()?.traceId ?? "none";
  const first = await it.serve("first", undefined, {}, 0, async (request) => {
    await it.run("start", {}, async () => {
      const { AsyncResource } = await import("node:async_hooks");
      // As a child process that was started here calls back.
      const child = new AsyncResource("child");
      speak = () => child.runInAsyncScope(() => left.push(traceNow()));
    });
    speak();
    return request.traceId;
  });
  speak();
  const second = await it.serve("second", undefined, {}, 0, async (request) => {
    speak();
    await it.run("end", { adopts: true }, async () => speak());
    speak();
    return request.traceId;
  });
  speak();
  assert.deepEqual(left, [first, "none", "none", second, second, "none"]);
  assert.deepEqual(
    spans.map(({ name }) => name),
    ["start", "first", "end", "second"],
  );
});

test("an error is the span's and the caller's", async () => {
  const { spans, tracer: it } = tracer();
  const failing = it.serve("request", undefined, {}, 0, () => Promise.reject(new Error("no disk")));
  await assert.rejects(failing, /no disk/);
  assert.match(spans[0]?.error ?? "", /no disk/);
});

test("the guest reports once for each call that it was told of, and for nothing else", async () => {
  const { spans, tracer: it } = tracer();
  await it.serve("request", undefined, {}, 0, async (request) => {
    it.reported({ ...reported, parentSpanId: request.spanId });
    await it.run("call", { kind: "client" }, async () => {
      const parentSpanId = it.current()?.spanId ?? "";
      it.reported({ ...reported, parentSpanId, endUnixNano: 4n });
      it.reported({ ...reported, parentSpanId, name: "n".repeat(1000) });
      it.reported({ ...reported, parentSpanId });
    });
  });
  it.reported({ ...reported, parentSpanId: "3".repeat(16) });
  const call = spans.find(({ name }) => name === "call");
  const ofGuest = spans.filter(({ service }) => service === "caisson-agent");
  assert.equal(ofGuest.length, 1);
  assert.deepEqual(
    [ofGuest[0]?.parentSpanId, ofGuest[0]?.traceId, ofGuest[0]?.name.length],
    [call?.spanId, call?.traceId, 256],
  );
  // Its clock is behind: it cannot have begun before it was asked.
  assert.equal(ofGuest[0]?.startUnixNano, call?.startUnixNano);
  assert.equal((ofGuest[0]?.endUnixNano ?? 0n) - (ofGuest[0]?.startUnixNano ?? 0n), 2n);
});

test("who ends the machine waits for the reports of calls just answered, for a while, and for nothing else", async () => {
  const { spans, tracer: it } = tracer();
  let spanId = "";
  const call = (work: () => Promise<unknown>) =>
    it.serve("request", undefined, {}, 0, () =>
      it.run("call", { kind: "client" }, async () => {
        spanId = it.current()?.spanId ?? "";
        await work();
      }),
    );
  const order: string[] = [];
  const waiting = () => it.reportsIn(60_000).then(() => order.push("waited"));
  await waiting();
  await assert.rejects(call(() => Promise.reject(new Error("the guest is gone"))));
  await waiting();
  assert.deepEqual(order, ["waited", "waited"], "nothing was answered");
  await call(async () => undefined);
  const ended = waiting();
  await sleep(5);
  order.push("report");
  it.reported({ ...reported, parentSpanId: spanId });
  await ended;
  assert.deepEqual(order.slice(2), ["report", "waited"]);
  assert.equal(spans.filter(({ service }) => service === "caisson-agent").length, 1);
  // A report that never comes.
  await call(async () => undefined);
  await it.reportsIn(20);
});
