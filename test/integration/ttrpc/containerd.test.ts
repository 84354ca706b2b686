/** Our client against the Go implementation: events forwarded to a private containerd come out of `ctr events`. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import net from "node:net";
import { after, before, describe, it } from "node:test";
import { create } from "@bufbuild/protobuf";
import { timestampNow } from "@bufbuild/protobuf/wkt";
import { silentLog } from "../../../src/base/log.ts";
import { TaskExitSchema, TaskStartSchema } from "../../../src/gen/containerd/events/task_pb.ts";
import { Events } from "../../../src/gen/containerd/services/events/ttrpc/v1/events_pb.ts";
import { EnvelopeSchema } from "../../../src/gen/containerd/types/event_pb.ts";
import { EventPublisher, topic } from "../../../src/shim/event-publisher.ts";
import { packAny } from "../../../src/shim/pack-any.ts";
import { FrameType, HEADER_LENGTH, writeHeader } from "../../../src/ttrpc/frame.ts";
import { createClient, MAX_DATA_LENGTH, TtrpcClient } from "../../../src/ttrpc/index.ts";
import { byteStreamFromSocket } from "../../../src/ttrpc/node-stream.ts";
import { type Containerd, startContainerd } from "../../harness/containerd.ts";
import { createWorld, type World } from "../../harness/world.ts";

interface SeenEvent {
  readonly namespace: string;
  readonly topic: string;
  readonly body: Readonly<Record<string, unknown>>;
}

/** A running `ctr events`. */
class EventWatch {
  readonly seen: SeenEvent[] = [];
  readonly #child: ChildProcess;
  #stderr = "";
  #wake: () => void = () => undefined;

  constructor(command: readonly string[]) {
    const [file = "", ...args] = command;
    this.#child = spawn(file, args, { stdio: ["ignore", "pipe", "pipe"] });
    this.#child.stderr?.on("data", (chunk: Buffer) => {
      this.#stderr += chunk.toString();
    });
    let rest = "";
    this.#child.stdout?.on("data", (chunk: Buffer) => {
      const lines = `${rest}${chunk}`.split("\n");
      rest = lines.pop() ?? "";
      // "<date> <time> <zone> <zone> <namespace> <topic> <json>"
      for (const line of lines) {
        const match = /^\S+ \S+ \S+ \S+ (\S+) (\S+) (.*)$/.exec(line);
        assert.ok(match !== null, `unexpected line of ctr events: ${line}`);
        this.seen.push({
          namespace: match[1] ?? "",
          topic: match[2] ?? "",
          body: JSON.parse(match[3] ?? "{}"),
        });
      }
      this.#wake();
    });
  }

  async until(done: (seen: readonly SeenEvent[]) => boolean): Promise<void> {
    const deadline = Date.now() + 10_000;
    while (!done(this.seen)) {
      assert.ok(Date.now() < deadline, `${this.#stderr}events seen: ${JSON.stringify(this.seen)}`);
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
        setTimeout(resolve, 100);
      });
    }
  }

  async stop(): Promise<void> {
    const exited = new Promise((resolve) => this.#child.once("exit", resolve));
    this.#child.kill("SIGKILL");
    await exited;
  }
}

let world: World;
let containerd: Containerd;
let watch: EventWatch;
let address: string;

const startEvent = (pid: number, eventTopic: string = topic.start, namespace = world.name) =>
  create(EnvelopeSchema, {
    timestamp: timestampNow(),
    namespace,
    topic: eventTopic,
    event: packAny(TaskStartSchema, { containerId: "c", pid }),
  });

/** A watch that is known to be subscribed: it has no sign of its own, so events are sent until the first one shows. */
async function startWatch(): Promise<EventWatch> {
  const started = new EventWatch(containerd.ctrCommand(["events"]));
  const client = new TtrpcClient(byteStreamFromSocket(net.connect(address)));
  const events = createClient(Events, client);
  const probing = setInterval(() => {
    events.forward({ envelope: startEvent(0, "/test/probe") }).catch(() => undefined);
  }, 50);
  try {
    await started.until((seen) => seen.length > 0);
  } finally {
    clearInterval(probing);
    client.close();
  }
  return started;
}

before(async () => {
  world = await createWorld();
  containerd = await startContainerd({ world });
  address = `${containerd.address}.ttrpc`;
  watch = await startWatch();
});
after(async () => {
  await watch?.stop();
  await containerd?.[Symbol.asyncDispose]();
  await world?.[Symbol.asyncDispose]();
});

describe("TtrpcClient with containerd", () => {
  it("forwards concurrent calls on one connection, each of which shows once", async () => {
    const client = new TtrpcClient(byteStreamFromSocket(net.connect(address)));
    const events = createClient(Events, client, {
      timeoutMs: 5000,
      metadata: { "containerd-namespace-ttrpc": world.name },
    });
    const pids = Array.from({ length: 50 }, (_, i) => 1000 + i);
    await Promise.all(pids.map((pid) => events.forward({ envelope: startEvent(pid) })));
    const mine = () => watch.seen.filter((event) => pids.includes(Number(event.body.pid)));
    await watch.until(() => mine().length >= pids.length);
    assert.deepEqual(
      mine()
        .map((event) => Number(event.body.pid))
        .sort(),
      pids,
    );
    assert.deepEqual(
      new Set(mine().map((event) => `${event.namespace} ${event.topic}`)),
      new Set([`${world.name} /tasks/start`]),
    );
    client.close();
  });

  it("gets containerd's own status for a call it refuses, and for what it does not serve", async () => {
    const client = new TtrpcClient(byteStreamFromSocket(net.connect(address)));
    const events = createClient(Events, client, { timeoutMs: 5000 });
    await assert.rejects(events.forward({ envelope: startEvent(1, "no-slash") }), {
      code: "ERR_INVALID_ARGUMENT",
      message: /topic/,
    });
    const noBytes = new Uint8Array(0);
    await assert.rejects(client.call(Events.typeName, "Nope", noBytes), { code: "ERR_UNIMPLEMENTED" });
    await assert.rejects(client.call("no.such.Service", "Nope", noBytes), { code: "ERR_UNIMPLEMENTED" });
    await events.forward({ envelope: startEvent(2) });
    client.close();
  });

  it("survives, as containerd does, a request over 4 MiB", async () => {
    const stream = byteStreamFromSocket(net.connect(address));
    // Stream id 1 is used by hand here; containerd answers it with ResourceExhausted and reads on.
    const oversize = new Uint8Array(HEADER_LENGTH + MAX_DATA_LENGTH + 1);
    writeHeader(oversize, { length: MAX_DATA_LENGTH + 1, streamId: 1, type: FrameType.Request, flags: 0 });
    const client = new TtrpcClient(stream);
    const call = client
      .call("S", "M", new Uint8Array(MAX_DATA_LENGTH))
      .catch((error: { code?: string }) => error.code);
    assert.equal(await call, "ERR_FRAME_TOO_LARGE");
    await stream.write(oversize);
    const events = createClient(Events, client, { timeoutMs: 5000 });
    // Gets id 1 too, so that containerd's refusal of the oversize message is its answer.
    await assert.rejects(events.forward({ envelope: startEvent(3) }), {
      code: "ERR_EXHAUSTED",
      message: /4194305/,
    });
    await events.forward({ envelope: startEvent(4) });
    client.close();
  });
});

describe("EventPublisher with containerd", () => {
  it("delivers in order, and goes on after a restart of containerd", async () => {
    const publisher = new EventPublisher({ address, namespace: world.name, log: silentLog });
    const exits = () =>
      watch.seen.filter((event) => event.topic === topic.exit).map((event) => Number(event.body.pid));
    const publish = (pid: number) =>
      publisher.publish(topic.exit, TaskExitSchema, {
        containerId: "c",
        id: "c",
        pid,
        exitStatus: 7,
        exitedAt: timestampNow(),
      });
    for (let pid = 1; pid <= 20; pid++) publish(pid);
    await watch.until(() => exits().length === 20);
    assert.deepEqual(
      exits(),
      Array.from({ length: 20 }, (_, i) => i + 1),
    );
    const first = watch.seen.find((event) => event.topic === topic.exit);
    assert.deepEqual([first?.body.container_id, first?.body.exit_status], ["c", 7]);

    await watch.stop();
    await containerd.stop();
    publish(21);
    await containerd.start();
    watch = await startWatch();
    publish(22);
    await watch.until(() => exits().includes(22));
    await publisher.close(10_000);
    // 21 may have been handed over before the new watch began; dropped it was not.
    assert.equal(publisher.dropped, 0);
  });
});
