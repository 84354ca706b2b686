import assert from "node:assert/strict";
import { once } from "node:events";
import { Duplex, PassThrough } from "node:stream";
import { test } from "node:test";
import { SandboxError } from "../../../src/base/errors.ts";
import { duplexByteStream, QmpClient, type SendWithFds } from "../../../src/qmp/index.ts";

const greeting =
  '{"QMP": {"version": {"qemu": {"micro": 0, "minor": 0, "major": 10}, "package": ""}, "capabilities": ["oob"]}}\r\n';

interface Request {
  readonly execute: string;
  readonly arguments?: Record<string, unknown>;
  readonly id: number;
}

/** The server's end of an in-memory connection: it reads commands one by one and says what the test wants. */
class FakeQemu {
  readonly #out = new PassThrough();
  readonly #in = new PassThrough();
  #buffer = "";
  readonly stream = duplexByteStream(Duplex.from({ readable: this.#out, writable: this.#in }));

  constructor() {
    this.#in.setEncoding("utf8");
  }

  say(text: string): void {
    this.#out.write(text);
  }

  async command(): Promise<Request> {
    while (!this.#buffer.includes("\n")) {
      const chunk: unknown = this.#in.read();
      if (typeof chunk === "string") this.#buffer += chunk;
      else await once(this.#in, "readable");
    }
    const end = this.#buffer.indexOf("\n");
    const line = this.#buffer.slice(0, end);
    this.#buffer = this.#buffer.slice(end + 1);
    return JSON.parse(line) as Request;
  }

  hangUp(): void {
    this.#out.end();
  }
}

async function connected(sendWithFds?: SendWithFds): Promise<{ qemu: FakeQemu; client: QmpClient }> {
  const qemu = new FakeQemu();
  qemu.say(greeting);
  const connecting = QmpClient.connect({ stream: qemu.stream, ...(sendWithFds && { sendWithFds }) });
  const negotiation = await qemu.command();
  assert.equal(negotiation.execute, "qmp_capabilities");
  qemu.say(`{"return": {}, "id": ${negotiation.id}}\r\n`);
  return { qemu, client: await connecting };
}

const hasCode = (code: string, text?: RegExp) => (error: unknown) =>
  error instanceof SandboxError && error.code === code && (text?.test(error.message) ?? true);

test("connect() negotiates and knows QEMU's version", async () => {
  const { client } = await connected();
  assert.equal(client.version.major, 10);
  client.close();
  assert.equal((await client.closed).code, "ERR_UNAVAILABLE");
});

test("connect() fails when QEMU goes away or speaks something else", async () => {
  const gone = new FakeQemu();
  gone.hangUp();
  await assert.rejects(QmpClient.connect({ stream: gone.stream }), hasCode("ERR_UNAVAILABLE", /closed/));
  const other = new FakeQemu();
  other.say("SSH-2.0-OpenSSH\r\n");
  await assert.rejects(QmpClient.connect({ stream: other.stream }), hasCode("ERR_PROTOCOL", /SSH-2\.0/));
});

test("connect() ends with its signal and after its deadline", async () => {
  const silent = new FakeQemu();
  const controller = new AbortController();
  const canceled = QmpClient.connect({ stream: silent.stream, signal: controller.signal });
  controller.abort();
  await assert.rejects(canceled, hasCode("ERR_CANCELED"));
  process.env.CAISSON_TIMEOUT_SCALE = "0.002";
  try {
    await assert.rejects(
      QmpClient.connect({ stream: new FakeQemu().stream }),
      hasCode("ERR_DEADLINE", /greeting/),
    );
  } finally {
    delete process.env.CAISSON_TIMEOUT_SCALE;
  }
});

test("execute() matches answers that come out of order and between events", async () => {
  const { qemu, client } = await connected();
  const seen: string[] = [];
  const off = client.on("STOP", (event) => seen.push(event.event));
  const status = client.execute("query-status");
  const add = client.execute("device_add", { driver: "virtio-net-pci", id: "n1" });
  const [first, second] = [await qemu.command(), await qemu.command()];
  assert.deepEqual(second.arguments, { driver: "virtio-net-pci", id: "n1" });
  const event = '{"timestamp": {"seconds": 1, "microseconds": 0}, "event": "STOP"}\r\n';
  qemu.say(`${event}{"return": {}, "id": ${second.id}}\r\n{"return": "stray", "id": 999}\r\n`);
  assert.deepEqual(await add, {});
  assert.deepEqual(seen, ["STOP"]);
  off();
  qemu.say(`${event}{"return": {"status": "paused", "running": false}, "id": ${first.id}}\r\n`);
  assert.equal((await status).status, "paused");
  assert.deepEqual(seen, ["STOP"], "the listener was removed");
  client.close();
});

test("execute() turns QMP error classes into our codes with QEMU's text", async () => {
  const { qemu, client } = await connected();
  const cases = [
    ["GenericError", "ERR_HOST"],
    ["DeviceNotFound", "ERR_NOT_FOUND"],
    ["CommandNotFound", "ERR_UNSUPPORTED"],
    ["DeviceNotActive", "ERR_STATE"],
  ] as const;
  for (const [errorClass, code] of cases) {
    const call = client.execute("device_del", { id: "n9" });
    const { id } = await qemu.command();
    qemu.say(`{"id": ${id}, "error": {"class": "${errorClass}", "desc": "Device 'n9' is odd"}}\r\n`);
    await assert.rejects(call, hasCode(code, /QEMU refused device_del: Device 'n9' is odd/));
  }
  const unreadable = client.execute("quit");
  await qemu.command();
  qemu.say('{"error": {"class": "GenericError", "desc": "JSON parse error"}}\r\n');
  await assert.rejects(unreadable, hasCode("ERR_HOST", /JSON parse error/));
  client.close();
});

test("execute() gives up at its deadline or signal and ignores the late answer", async () => {
  const { qemu, client } = await connected();
  await assert.rejects(
    client.execute("stop", undefined, { timeoutMs: 5 }),
    hasCode("ERR_DEADLINE", /command stop/),
  );
  const late = await qemu.command();
  qemu.say(`{"return": {"late": true}, "id": ${late.id}}\r\n`);
  const controller = new AbortController();
  const canceled = client.execute("cont", undefined, { signal: controller.signal });
  controller.abort();
  await assert.rejects(canceled, hasCode("ERR_CANCELED"));
  await qemu.command();
  const next = client.execute("query-kvm");
  const { id } = await qemu.command();
  qemu.say(`{"return": {"enabled": true, "present": true}, "id": ${id}}\r\n`);
  assert.equal((await next).enabled, true);
  client.close();
});

test("what is pending fails when the connection ends, and later calls fail at once", async () => {
  const { qemu, client } = await connected();
  const events = (async () => {
    const names: string[] = [];
    for await (const event of client.events()) names.push(event.event);
    return names;
  })();
  const waiting = client.waitFor("DEVICE_DELETED", () => true, AbortSignal.timeout(5000));
  const call = client.execute("query-status");
  await qemu.command();
  qemu.say(
    '{"timestamp": {"seconds": 1, "microseconds": 0}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "x"}}\r\n',
  );
  qemu.hangUp();
  await assert.rejects(call, hasCode("ERR_UNAVAILABLE", /query-status got no answer/));
  await assert.rejects(waiting, hasCode("ERR_UNAVAILABLE"));
  assert.deepEqual(await events, ["SHUTDOWN"]);
  await assert.rejects(client.execute("stop"), hasCode("ERR_UNAVAILABLE"));
});

test("garbage and endless lines end the connection instead of filling memory", async () => {
  for (const [text, code] of [
    ["\u0000\u0001 not json\r\n", "ERR_PROTOCOL"],
    ["x".repeat(5 * 1024 * 1024), "ERR_FRAME_TOO_LARGE"],
  ] as const) {
    const { qemu, client } = await connected();
    const call = client.execute("query-status");
    await qemu.command();
    qemu.say(text);
    await assert.rejects(call, hasCode("ERR_UNAVAILABLE"));
    assert.equal((await client.closed).code, code);
  }
});

test("waitFor() takes the first event that matches", async () => {
  const { qemu, client } = await connected();
  const deleted = client.waitFor("DEVICE_DELETED", (data) => data.device === "n1", AbortSignal.timeout(5000));
  const at = '"timestamp": {"seconds": 1, "microseconds": 0}';
  qemu.say(`{${at}, "event": "DEVICE_DELETED", "data": {"path": "/machine/x/virtio-backend"}}\r\n`);
  qemu.say(`{${at}, "event": "DEVICE_DELETED", "data": {"path": "/machine/x", "device": "n1"}}\r\n`);
  assert.deepEqual(await deleted, { path: "/machine/x", device: "n1" });
  const controller = new AbortController();
  setTimeout(() => controller.abort(), 5);
  await assert.rejects(
    client.waitFor("STOP", () => true, controller.signal),
    hasCode("ERR_CANCELED"),
  );
  client.close();
});

test("descriptors go out with their own command, in order with the others", async () => {
  const order: string[] = [];
  const { qemu, client } = await connected(async (bytes, fds) => {
    await new Promise((done) => setTimeout(done, 10));
    const text = new TextDecoder().decode(bytes);
    order.push(`${(JSON.parse(text) as Request).execute} ${fds.join(",")}`);
    await qemu.stream.write(bytes);
  });
  const named = client.execute("getfd", { fdname: "tap0" }, { fds: [7, 8] });
  const used = client.execute("netdev_add", { type: "tap", id: "n0", fd: "tap0" });
  const [first, second] = [await qemu.command(), await qemu.command()];
  assert.deepEqual([first.execute, second.execute], ["getfd", "netdev_add"]);
  for (const { id } of [first, second]) qemu.say(`{"return": {}, "id": ${id}}\r\n`);
  await Promise.all([named, used]);
  assert.deepEqual(order, ["getfd 7,8"]);
  client.close();

  const plain = await connected();
  await assert.rejects(
    plain.client.execute("getfd", { fdname: "x" }, { fds: [1] }),
    hasCode("ERR_UNSUPPORTED", /file descriptors/),
  );
  plain.client.close();
});
