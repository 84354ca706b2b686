/** OpenTelemetry spans of a real container: from containerd's request to what the agent did for it. */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { OtlpCollector, type SeenSpan } from "../../harness/otlp.ts";
import { describeResult } from "../../harness/run.ts";
import { TestHost } from "../../harness/test-host.ts";

const TASK = "containerd.task.v2.Task";
const SERVER = 2;
const CLIENT = 3;

let host: TestHost;
let collector: OtlpCollector;
before(async () => {
  // The only containerd here that sends its own span with a request.
  host = await TestHost.start("2.1", async (world) => {
    collector = await OtlpCollector.start(world);
    return {
      OTEL_EXPORTER_OTLP_ENDPOINT: collector.endpoint,
      OTEL_EXPORTER_OTLP_PROTOCOL: "http/protobuf",
    };
  });
});
after(async () => {
  collector?.[Symbol.dispose]();
  await host?.[Symbol.asyncDispose]();
});

/** Waits for what `find` finds. @throws after 20 s with what was there instead */
async function until<T>(find: () => T | undefined, otherwise: () => string): Promise<T> {
  const deadline = performance.now() + 20_000;
  for (;;) {
    const found = find();
    if (found !== undefined) return found;
    if (performance.now() > deadline) throw new Error(otherwise());
    await sleep(50);
  }
}

/** Each span as "name" below the name of its parent, for reading. */
const pairs = (spans: readonly SeenSpan[]) =>
  spans.map((span) => {
    const parent = spans.find(({ spanId }) => spanId === span.parentSpanId)?.name ?? "(outside)";
    return `${parent} > ${span.name}`;
  });

test("a container's calls are spans below containerd's, down to the agent, with one trace id in both logs", async () => {
  host.configure({ "runtime.enable_debug": true, "agent.caisson.enable_debug": true });
  await host.ledgered(async () => {
    const result = await host.run(["sh", "-c", "exit 3"], { id: "traced" });
    assert.equal(result.code, 3, describeResult(result));
    const deleted = () => collector.spans().find(({ name }) => name === `${TASK}/Delete`);
    await until(deleted, () => `no span of Delete:\n${pairs(collector.spans()).join("\n")}`);
  });
  const spans = collector.spans();
  const one = (name: string): SeenSpan => {
    const [span, ...more] = spans.filter((candidate) => candidate.name === name);
    assert.ok(span !== undefined, `no span ${name} in\n${pairs(spans).join("\n")}`);
    assert.deepEqual(more, [], `more than one span ${name}`);
    return span;
  };
  const below = (parent: SeenSpan, name: string, service = "caisson-shim"): SeenSpan => {
    const span = one(name);
    assert.deepEqual(
      [span.parentSpanId, span.traceId, span.service],
      [parent.spanId, parent.traceId, service],
      name,
    );
    assert.ok(span.endNs > span.startNs, `${name} took no time`);
    assert.ok(span.startNs >= parent.startNs, `${name} began before ${parent.name}`);
    return span;
  };
  /** A call to the agent and what the agent reports of it. */
  const agentCall = (parent: SeenSpan, method: string) => {
    const call = below(parent, `agent ${method}`);
    assert.equal(call.kind, CLIENT);
    const served = below(call, `${method[0]?.toLowerCase()}${method.slice(1)}`, "caisson-agent");
    assert.equal(served.kind, SERVER);
    assert.ok(served.endNs - served.startNs <= call.endNs - call.startNs, `${method} took longer inside`);
  };

  const create = one(`${TASK}/Create`);
  assert.equal(create.kind, SERVER);
  assert.equal(create.attributes["container.id"], "traced");
  below(create, "workspace make");
  const boot = below(create, "boot");
  for (const name of ["virtiofsd start", "vsock open", "network attach", "qemu launch"]) below(boot, name);
  const guest = below(boot, "guest boot");
  for (const name of ["guest init", "guest modules", "guest connected"])
    below({ ...guest, startNs: boot.startNs }, name, "caisson-agent");
  agentCall(below(boot, "guest set-up"), "CreateSandbox");
  below(create, "rootfs mount");
  below(create, "volumes attach");
  agentCall(create, "CreateContainer");
  const start = one(`${TASK}/Start`);
  below(start, "stdio attach");
  agentCall(start, "StartProcess");
  const remove = one(`${TASK}/Delete`);
  agentCall(remove, "DeleteProcess");
  below(remove, "machine end");
  for (const { name, failed } of spans) assert.equal(failed, false, name);

  // containerd sends its own spans in batches, every five seconds.
  for (const call of [create, start, remove]) {
    const isParent = ({ spanId, traceId }: { spanId: string; traceId: string }) =>
      spanId === call.parentSpanId && traceId === call.traceId;
    const parent = await until(
      () => collector.othersSpans().find(isParent),
      () => `${call.name} is below no span of containerd`,
    );
    assert.match(parent.name, new RegExp(`${call.name.split("/")[1]}$`));
  }

  const records = host.containerd
    .log()
    .split("\n")
    .filter((line) => line.includes(create.traceId));
  const ofAgent = (line: string) => line.includes('"component":"agent"');
  assert.ok(
    records.some((line) => ofAgent(line) && line.includes("CreateContainer")),
    records.join("\n"),
  );
  assert.ok(
    records.some((line) => ofAgent(line) && line.includes("CreateSandbox")),
    records.join("\n"),
  );
  assert.ok(
    records.some((line) => !ofAgent(line) && line.includes("the guest is ready")),
    records.join("\n"),
  );
  assert.ok(
    records.some((line) => !ofAgent(line) && line.includes(`${TASK}/Create`)),
    records.join("\n"),
  );
  assert.ok(!host.containerd.log().includes("spans were lost"));
});

test("a collector that never answers costs spans, not calls; the configuration goes before the environment", async () => {
  host.configure({ "runtime.otlp_endpoint": `${collector.endpoint}/hang` });
  const before = collector.spans().length;
  // The ledger also says that the shim, whose last spans nobody takes, has ended.
  await host.ledgered(async () => {
    const result = await host.run(["true"], { id: "untold" });
    assert.equal(result.code, 0, describeResult(result));
    await until(
      () => collector.spans("/hang/v1/traces")[0],
      () => "nothing was sent to the endpoint of the configuration",
    );
  });
  assert.equal(collector.spans().length, before);
});

test("without an endpoint nothing is sent and no record has a trace", async () => {
  host.configure({ "runtime.otlp_endpoint": "none", "runtime.enable_debug": true });
  const requests = collector.requests("/").length;
  const logged = host.containerd.log().length;
  await host.ledgered(async () => {
    const result = await host.run(["true"], { id: "quiet" });
    assert.equal(result.code, 0, describeResult(result));
  });
  const ours = collector.requests("/").slice(requests);
  assert.deepEqual(
    ours.filter(({ headers }) => headers["content-type"] === "application/json"),
    [],
  );
  assert.ok(!host.containerd.log().slice(logged).includes('"trace_id"'));
});
