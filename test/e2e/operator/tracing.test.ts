/** OpenTelemetry spans of a real container: from containerd's request to what the agent did for it. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { OtlpCollector, type SeenSpan } from "../../harness/otlp.ts";
import { repositoryRoot } from "../../harness/paths.ts";
import { describeResult } from "../../harness/run.ts";
import { TestHost, WITHOUT_TEMPLATE } from "../../harness/test-host.ts";
import type { World } from "../../harness/world.ts";

const TASK = "containerd.task.v2.Task";
const SERVER = 2;
const CLIENT = 3;

let host: TestHost;
let collector: OtlpCollector;
let loadedFile = "";
before(async () => {
  // The only containerd here that sends its own span with a request.
  const environment = async (world: World) => {
    collector = await OtlpCollector.start(world);
    loadedFile = join(world.dir, "loaded.jsonl");
    return {
      LOADED_MODULES: loadedFile,
      NODE_OPTIONS: `--require=${join(repositoryRoot, "test/harness/loaded-modules.cjs")}`,
      OTEL_EXPORTER_OTLP_ENDPOINT: collector.endpoint,
      OTEL_EXPORTER_OTLP_PROTOCOL: "http/protobuf",
    };
  };
  // Whose guest has a boot to tell of.
  host = await TestHost.start("2.1", environment, { config: WITHOUT_TEMPLATE });
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

/** What the shim of a sandbox that has ended had loaded of what tracing needs (test/harness/loaded-modules.cjs). */
async function ofTracing(sandbox: string): Promise<{ http: boolean; contexts: number }> {
  const ended = () =>
    readFileSync(loadedFile, "utf8")
      .split("\n")
      .slice(0, -1)
      .map(
        (line) => JSON.parse(line) as { title: string; args: string[]; modules: string[]; contexts: number },
      )
      .find(({ title, args }) => title === "caisson-shim" && args.includes(sandbox));
  const { modules, contexts } = await until(
    ended,
    () => `the shim of ${sandbox} did not tell what it has loaded`,
  );
  return { http: modules.includes("_http_client"), contexts };
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

/** A record of a sandbox's shim in containerd's log. */
interface ShimRecord {
  readonly time: string;
  readonly component?: string;
  readonly msg?: string;
  readonly op?: string;
  /** The fields of the agent's record, in JSON. */
  readonly guest?: string;
  readonly trace_id?: string;
}

const recordsOf = (sandbox: string): ShimRecord[] =>
  host.containerd
    .log()
    .split("\n")
    .filter((line) => line.startsWith("{") && line.includes(`"sandbox":"${sandbox}"`))
    .map((line) => JSON.parse(line) as ShimRecord);

test("every record that shim and agent write of a request has its trace id, and no other's", async () => {
  host.configure({ "runtime.enable_debug": true, "agent.caisson.enable_debug": true });
  const before = collector.spans().length;
  await host.ledgered(async () => {
    const id = await host.runDetached(["sleep", "1000"], { id: "whole" });
    const result = await host.exec(id, ["sh", "-c", "echo said; exit 4"]);
    assert.equal(result.code, 4, describeResult(result));
    await host.remove(id);
    const shutdown = () => served().find(({ name }) => name === `${TASK}/Shutdown`);
    await until(shutdown, () => `no span of Shutdown:\n${pairs(served()).join("\n")}`);
  });
  function served() {
    return collector.spans().slice(before);
  }
  const spans = served();
  const requests = spans.filter(({ name }) => name.startsWith(TASK));
  const records = recordsOf("whole");
  const text = (some: readonly ShimRecord[]) => some.map((record) => JSON.stringify(record)).join("\n");

  // The sandbox lives from the first request to the last: between two of them nothing happens in it.
  const traces = new Set(requests.map(({ traceId }) => traceId));
  const stray = records.filter(({ trace_id: trace = "" }) => !traces.has(trace));
  assert.deepEqual(stray, [], `of ${records.length} records these belong to no request:\n${text(stray)}`);

  for (const record of records) {
    const { op = "" } = JSON.parse(record.guest ?? JSON.stringify(record)) as ShimRecord;
    const of = record.component === "agent" ? `agent ${op.split("/")[1]}` : op;
    // A Wait has the trace of its caller and no span of its own.
    if (op === "" || op.endsWith("/Wait")) continue;
    assert.ok(
      spans.some(({ name, traceId }) => name === of && traceId === record.trace_id),
      `no span ${of} has the trace of ${JSON.stringify(record)}`,
    );
  }
  const calls = (component: string) =>
    new Set(
      records
        .filter((record) => (record.component === "agent") === (component === "agent"))
        .map((record) => /\/([A-Z]\w+)/.exec(record.guest ?? record.op ?? "")?.[1]),
    );
  for (const call of ["Create", "Start", "Exec", "Kill", "Wait", "Delete", "Shutdown"])
    assert.ok(calls("shim").has(call), `no record of ${call}:\n${text(records)}`);
  for (const call of ["CreateSandbox", "CreateContainer", "CreateExec", "StartProcess", "SignalProcess"])
    assert.ok(calls("agent").has(call), `no record of the agent's ${call}:\n${text(records)}`);

  // What child processes say is of the request that starts or ends them.
  const ends = requests.findLast(({ name }) => name === `${TASK}/Delete`);
  const gone = records.filter((record) =>
    /"(?:qemu|virtiofsd) (?:was killed|exited)/.test(JSON.stringify(record)),
  );
  assert.deepEqual(
    gone.map(({ trace_id: trace }) => trace),
    [ends?.traceId, ends?.traceId, ends?.traceId], // QEMU and two virtiofsd
    text(records),
  );
});

for (const [what, endpoint, isTried] of [
  [
    "never answers",
    () => `${collector.endpoint}/hang`,
    () =>
      collector.spans("/hang/v1/traces").some(({ attributes }) => attributes["container.id"] === "untold"),
  ],
  // Port 1 of a network namespace in which nothing listens there.
  [
    "is not there",
    () => "http://127.0.0.1:1",
    () => /spans were lost: .*ECONNREFUSED/.test(host.containerd.log()),
  ],
] as const)
  test(`a collector that ${what} costs spans, not calls; the configuration goes before the environment`, async () => {
    host.configure({ "runtime.otlp_endpoint": endpoint() });
    const before = collector.spans().length;
    // The ledger also says that the shim, whose last spans nobody takes, has ended.
    await host.ledgered(async () => {
      const id = await host.runDetached(["sleep", "1000"], { id: "untold" });
      await until(
        () => isTried() || undefined,
        () => "nothing was sent to the endpoint of the configuration",
      );
      const result = await host.exec(id, ["sh", "-c", "exit 4"]);
      assert.equal(result.code, 4, describeResult(result));
      await host.remove(id);
    });
    assert.equal(collector.spans().length, before);
    const failed = recordsOf("untold").filter(({ msg = "" }) => msg.startsWith("call failed"));
    assert.deepEqual(
      failed.filter(({ op = "" }) => !op.endsWith("/Kill")),
      [],
    );
  });

test("without an endpoint nothing is sent, no record has a trace, and nothing is loaded for it", async () => {
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
  assert.deepEqual(await ofTracing("quiet"), { http: false, contexts: 0 });
  // Of one that was traced the same look finds both.
  const traced = await ofTracing("traced");
  assert.ok(traced.http && traced.contexts > 20, JSON.stringify(traced));
});
