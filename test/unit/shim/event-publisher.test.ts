import assert from "node:assert/strict";
import fs from "node:fs";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { afterEach, beforeEach, describe, it } from "node:test";
import { fromBinary } from "@bufbuild/protobuf";
import { SandboxError } from "../../../src/base/errors.ts";
import type { Log, LogFields } from "../../../src/base/log.ts";
import { TaskExitSchema, TaskStartSchema } from "../../../src/gen/containerd/events/task_pb.ts";
import { Events } from "../../../src/gen/containerd/services/events/ttrpc/v1/events_pb.ts";
import type { Envelope } from "../../../src/gen/containerd/types/event_pb.ts";
import { EventPublisher, type PublisherTuning, topic } from "../../../src/shim/event-publisher.ts";
import { serviceHandlers, TtrpcServer } from "../../../src/ttrpc/index.ts";
import { byteStreamFromSocket } from "../../../src/ttrpc/node-stream.ts";

const quick: Partial<PublisherTuning> = { firstPauseMs: 5, maxPauseMs: 20, warnEveryMs: 0 };

class RecordingLog implements Log {
  readonly records: { level: string; fields: LogFields; message: string }[] = [];
  error = (fields: LogFields, message: string) => void this.records.push({ level: "error", fields, message });
  warn = (fields: LogFields, message: string) => void this.records.push({ level: "warn", fields, message });
  info = (fields: LogFields, message: string) => void this.records.push({ level: "info", fields, message });
  debug = (fields: LogFields, message: string) => void this.records.push({ level: "debug", fields, message });
  trace = (fields: LogFields, message: string) => void this.records.push({ level: "trace", fields, message });
  child = (): Log => this;

  warnings(): { level: string; fields: LogFields; message: string }[] {
    return this.records.filter((record) => record.level === "warn");
  }
}

/** containerd's end: a real ttrpc server on a real socket. */
class Sink {
  readonly received: Envelope[] = [];
  readonly metadata: (string | undefined)[] = [];
  connections = 0;
  onForward: (envelope: Envelope) => void | Promise<void> = () => undefined;
  readonly #sockets = new Set<net.Socket>();
  #listener: net.Server | undefined;

  async listen(socketPath: string): Promise<void> {
    const handlers = serviceHandlers(Events, {
      forward: async ({ envelope }, context) => {
        assert.ok(envelope !== undefined);
        await this.onForward(envelope);
        this.received.push(envelope);
        this.metadata.push(context.metadata.get("containerd-namespace-ttrpc")?.[0]);
        return {};
      },
    });
    const server = new TtrpcServer({ services: [handlers] });
    const listener = net.createServer((socket) => {
      this.connections += 1;
      this.#sockets.add(socket);
      void server.serve(byteStreamFromSocket(socket));
    });
    this.#listener = listener;
    await new Promise<void>((resolve) => listener.listen(socketPath, resolve));
  }

  /** As a daemon that ends: connections are cut and the socket file goes. */
  async stop(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    this.#sockets.clear();
    const listener = this.#listener;
    this.#listener = undefined;
    if (listener !== undefined) await new Promise((resolve) => listener.close(resolve));
  }

  pids(): number[] {
    return this.received.map(
      (envelope) => fromBinary(TaskStartSchema, envelope.event?.value ?? new Uint8Array(0)).pid,
    );
  }
}

let directory: string;
let address: string;
let sink: Sink;
let log: RecordingLog;
let publisher: EventPublisher;

function makePublisher(tuning: Partial<PublisherTuning> = {}, to: string = address): EventPublisher {
  publisher = new EventPublisher({ address: to, namespace: "ns", log, tuning: { ...quick, ...tuning } });
  return publisher;
}

function publishStarts(from: number, to: number): void {
  for (let pid = from; pid <= to; pid++)
    publisher.publish(topic.start, TaskStartSchema, { containerId: "c", pid });
}

const numbers = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, i) => from + i);

beforeEach(() => {
  directory = fs.mkdtempSync(path.join(os.tmpdir(), "events-"));
  address = path.join(directory, "s");
  sink = new Sink();
  log = new RecordingLog();
});
afterEach(async () => {
  await publisher.close(0);
  await sink.stop();
  fs.rmSync(directory, { recursive: true });
});

describe("EventPublisher", () => {
  it("delivers what containerd expects: namespace, topic, time and the bare type name", async () => {
    await sink.listen(address);
    makePublisher({}, `unix://${address}`);
    const before = Date.now();
    publisher.publish(topic.exit, TaskExitSchema, { containerId: "c", id: "e", pid: 9, exitStatus: 137 });
    await publisher.close(5000);
    const [envelope] = sink.received;
    assert.deepEqual([envelope?.namespace, envelope?.topic], ["ns", "/tasks/exit"]);
    assert.equal(envelope?.event?.typeUrl, "containerd.events.TaskExit");
    assert.equal(fromBinary(TaskExitSchema, envelope?.event?.value ?? new Uint8Array(0)).exitStatus, 137);
    assert.ok(Number(envelope?.timestamp?.seconds) >= Math.floor(before / 1000));
    assert.deepEqual(sink.metadata, ["ns"]);
    assert.equal(publisher.dropped, 0);
  });

  it("keeps the order over one connection", async () => {
    await sink.listen(address);
    makePublisher();
    publishStarts(1, 300);
    await publisher.close(5000);
    assert.deepEqual(sink.pids(), numbers(1, 300));
    assert.equal(sink.connections, 1);
  });

  it("waits for a sink that is not there yet", async () => {
    makePublisher();
    publishStarts(1, 3);
    await new Promise((resolve) => setTimeout(resolve, 30));
    await sink.listen(address);
    await publisher.close(5000);
    assert.deepEqual(sink.pids(), [1, 2, 3]);
    assert.deepEqual(log.warnings(), []);
  });

  it("reconnects after a restart of the sink and goes on where it was", async () => {
    await sink.listen(address);
    makePublisher();
    publishStarts(1, 2);
    while (sink.received.length < 2) await new Promise((resolve) => setTimeout(resolve, 5));
    await sink.stop();
    publishStarts(3, 5);
    await new Promise((resolve) => setTimeout(resolve, 30));
    await sink.listen(address);
    await publisher.close(5000);
    assert.deepEqual(sink.pids(), [1, 2, 3, 4, 5]);
    assert.equal(sink.connections, 2);
  });

  it("sends an event again when the connection is lost before the answer", async () => {
    await sink.listen(address);
    let cut = true;
    sink.onForward = async () => {
      if (!cut) return;
      cut = false;
      await sink.stop();
      await sink.listen(address);
      throw new SandboxError("ERR_CANCELED", "not counted");
    };
    makePublisher();
    publishStarts(1, 2);
    await publisher.close(5000);
    assert.deepEqual(sink.pids(), [1, 2]);
  });

  it("gives an attempt up that gets no answer and tries again on a new connection", async () => {
    const scale = process.env.CAISSON_TIMEOUT_SCALE;
    // eventForward is 5 s; a tenth of it here: long enough for a busy machine to answer in.
    process.env.CAISSON_TIMEOUT_SCALE = "0.1";
    try {
      await sink.listen(address);
      let hang = true;
      sink.onForward = () => {
        if (!hang) return undefined;
        hang = false;
        return new Promise(() => undefined);
      };
      makePublisher();
      publishStarts(1, 2);
      await publisher.close(5000);
      assert.deepEqual(sink.pids(), [1, 2]);
      assert.equal(sink.connections, 2);
    } finally {
      if (scale === undefined) delete process.env.CAISSON_TIMEOUT_SCALE;
      else process.env.CAISSON_TIMEOUT_SCALE = scale;
    }
  });

  it("drops an event that is refused again and again, says so, and delivers the next", async () => {
    await sink.listen(address);
    let refusals = 0;
    sink.onForward = (envelope) => {
      if (envelope.topic !== "bad") return;
      refusals += 1;
      throw new SandboxError("ERR_INVALID_ARGUMENT", "topic must start with /");
    };
    makePublisher();
    publisher.publish("bad", TaskStartSchema, { containerId: "c", pid: 1 });
    publishStarts(2, 2);
    await publisher.close(5000);
    assert.equal(refusals, 3);
    assert.deepEqual(sink.pids(), [2]);
    assert.equal(publisher.dropped, 1);
    const [warning] = log.warnings();
    assert.equal(warning?.fields.dropped, 1);
    assert.match(warning?.message ?? "", /refused it: topic must start with/);
  });

  it("drops what is too old when the sink stays dead, with one counted warning", async () => {
    makePublisher({ maxAgeMs: 30 });
    publishStarts(1, 10);
    while (publisher.dropped < 10) await new Promise((resolve) => setTimeout(resolve, 5));
    const dropped = log.warnings().map((record) => record.fields.dropped);
    assert.deepEqual(dropped, [10]);
    assert.match(log.warnings()[0]?.message ?? "", /not delivered within 30 ms: .*ENOENT/);
    await sink.listen(address);
    publishStarts(11, 11);
    await publisher.close(5000);
    assert.deepEqual(sink.pids(), [11]);
  });

  it("keeps the newest when too many wait, and counts the others", async () => {
    makePublisher({ maxQueued: 5, warnEveryMs: 60_000 });
    publishStarts(1, 12);
    await sink.listen(address);
    await publisher.close(5000);
    assert.deepEqual(sink.pids(), numbers(8, 12));
    assert.equal(publisher.dropped, 7);
    assert.deepEqual(
      log.warnings().map((record) => record.fields.dropped),
      [1, 6],
    );
  });

  it("close() gives up at its deadline and counts what is left", async () => {
    makePublisher();
    publishStarts(1, 4);
    const startedAt = Date.now();
    await publisher.close(40);
    assert.ok(Date.now() - startedAt < 2000);
    assert.equal(publisher.dropped, 4);
    publishStarts(5, 5);
    assert.equal(publisher.dropped, 5);
  });

  it("close() gives up an attempt that hangs", async () => {
    await sink.listen(address);
    sink.onForward = () => new Promise(() => undefined);
    makePublisher();
    publishStarts(1, 1);
    const startedAt = Date.now();
    await publisher.close(40);
    assert.ok(Date.now() - startedAt < 2000);
    assert.equal(publisher.dropped, 1);
  });

  it("without an address logs the event and holds nothing", async () => {
    makePublisher({}, "");
    publishStarts(1, 1);
    await publisher.close(0);
    assert.equal(publisher.dropped, 0);
    const [record] = log.records;
    assert.deepEqual([record?.level, record?.fields.topic], ["debug", "/tasks/start"]);
  });
});
