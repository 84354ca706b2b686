/** The agent's native protobuf codec against protobuf-es: every message of agent.proto, ttrpc's envelopes, hostile bytes. */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import {
  create,
  type DescField,
  type DescMessage,
  fromBinary,
  ScalarType,
  toBinary,
} from "@bufbuild/protobuf";
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";
import * as generated from "../../../src/gen/caisson/agent/v1/agent_pb.ts";
import {
  type RequestParts,
  readRequest,
  readResponse,
  writeRequest,
  writeResponse,
} from "../../../src/ttrpc/envelope-codec.ts";
import { GuestError, GuestMessages } from "../../harness/guest-messages.ts";

const messages: DescMessage[] = generated.file_caisson_agent_v1_agent.messages;
let guest: GuestMessages;
before(async () => {
  guest = await GuestMessages.start();
});
after(() => guest[Symbol.dispose]());

const decode = (message: DescMessage, bytes: Uint8Array) => guest.ask("decode", message.name, bytes);
const hex = (text: string) => new Uint8Array(Buffer.from(text.replaceAll(" ", ""), "hex"));
const refused = (what: RegExp) => (error: unknown) =>
  error instanceof GuestError && error.name === "RangeError" && what.test(error.message);

/** A fixed sequence (Numerical Recipes' LCG), so that a failure repeats. */
function sequence(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

function scalar(type: ScalarType, next: (below: number) => number): unknown {
  if (type === ScalarType.STRING) return ["", "a", "ä€😀", "x".repeat(next(300))][next(4)];
  if (type === ScalarType.BYTES) return Uint8Array.from({ length: next(40) }, () => next(256));
  if (type === ScalarType.BOOL) return next(2) === 1;
  if (type === ScalarType.UINT64)
    return [0n, 1n, 2n ** 32n, 2n ** 63n, 2n ** 64n - 1n, BigInt(next(2 ** 31))][next(6)];
  if (type === ScalarType.UINT32) return [0, 1, 2 ** 31, 2 ** 32 - 1, next(2 ** 31)][next(5)];
  throw new Error(`no values for scalar type ${type}`);
}

function single(
  field: DescField & { fieldKind: string },
  next: (below: number) => number,
  depth: number,
): unknown {
  if (field.message !== undefined) return random(field.message, next, depth + 1);
  if (field.enum !== undefined) return next(4);
  if (field.fieldKind === "list")
    return scalar(field.listKind === "scalar" ? field.scalar : ScalarType.STRING, next);
  return scalar(field.scalar ?? ScalarType.STRING, next);
}

function random(message: DescMessage, next: (below: number) => number, depth = 0): Record<string, unknown> {
  const init: Record<string, unknown> = {};
  for (const oneof of message.oneofs) {
    const field = oneof.fields[next(oneof.fields.length + 1)];
    init[oneof.localName] =
      field === undefined
        ? { case: undefined }
        : { case: field.localName, value: single(field, next, depth) };
  }
  for (const field of message.fields) {
    if (field.oneof !== undefined || next(4) === 0) continue;
    if (field.fieldKind === "list") {
      init[field.localName] = Array.from({ length: next(4) }, () => single(field, next, depth));
    } else if (field.fieldKind === "map") {
      const keys = ["", "a", "net.ipv4.x"].slice(0, next(4));
      const entries = keys.map((key) => [key, scalar(field.scalar ?? ScalarType.STRING, next)]);
      init[field.localName] = Object.fromEntries(entries);
    } else {
      init[field.localName] = single(field, next, depth);
    }
  }
  return init;
}

/** Without prototypes and message metadata, so that both implementations compare. */
const plain = (value: unknown): unknown =>
  JSON.parse(
    JSON.stringify(value, (key, item: unknown) => {
      if (key === "$unknown") return undefined;
      if (typeof item === "bigint") return `${item}n`;
      return item instanceof Uint8Array ? { bytes: Buffer.from(item).toString("hex") } : item;
    }),
  );

for (const message of messages) {
  test(`${message.name} is the same on the wire and in memory as with protobuf-es`, async () => {
    for (let seed = 1; seed <= 40; seed++) {
      const init = random(message, sequence(seed));
      const theirs = create(message, init as never);
      const bytes = toBinary(message, theirs);
      const [ours, encoded, decoded] = await Promise.all([
        guest.ask("create", message.name, init),
        guest.ask("encode", message.name, init),
        decode(message, bytes),
      ]);
      assert.deepEqual(plain(ours), plain(theirs), `create, seed ${seed}`);
      assert.deepEqual(encoded, bytes, `encode, seed ${seed}`);
      assert.deepEqual(plain(decoded), plain(fromBinary(message, bytes)), `decode, seed ${seed}`);
    }
  });
}

test("unknown fields of every wire type, and known numbers with another type, are skipped", async () => {
  const writer = new BinaryWriter();
  writer
    .tag(100, WireType.Varint)
    .int32(1)
    .tag(101, WireType.Bit64)
    .fixed64(1n)
    .tag(102, WireType.Bit32)
    .fixed32(1);
  writer.tag(103, WireType.LengthDelimited).string("later").tag(2, WireType.Varint).int32(5);
  writer.tag(104, WireType.StartGroup).tag(1, WireType.Varint).int32(7).tag(104, WireType.EndGroup);
  writer.tag(1, WireType.LengthDelimited).string("c1");
  assert.deepEqual(plain(await decode(generated.StartProcessRequestSchema, writer.finish())), {
    $typeName: "caisson.agent.v1.StartProcessRequest",
    containerId: "c1",
    execId: "",
  });
});

test("a map keeps a key that is the name of an object's own property", async () => {
  const sysctls = Object.fromEntries([
    ["__proto__", "x"],
    ["7", "y"],
  ]);
  const message = generated.CreateSandboxRequestSchema;
  const bytes = toBinary(message, create(message, { sysctls }));
  assert.deepEqual(await guest.ask("map", message.name, bytes), {
    plain: true,
    entries: [
      ["7", "y"],
      ["__proto__", "x"],
    ],
  });
});

test("the entry of a map has defaults for what it lacks", async () => {
  const { sysctls } = (await decode(generated.CreateSandboxRequestSchema, hex("4a00 4a03 0a0161"))) as {
    sysctls: object;
  };
  assert.deepEqual(sysctls, { "": "", a: "" });
});

test("integers of more bits than their field keep the low ones, as with protobuf-es", async () => {
  for (const varint of [
    "ffffffffffffffffff01",
    "ffffffff1f",
    "80808080808080808001",
    "ffffffffffffffffff7f",
  ]) {
    const status = hex(`18${varint}`);
    const bytes = hex(`20${varint}`);
    for (const encoded of [status, bytes]) {
      const message = generated.ProcessExitedSchema;
      assert.deepEqual(plain(await decode(message, encoded)), plain(fromBinary(message, encoded)), varint);
    }
  }
});

test("text that is not UTF-8 is replaced, not refused", async () => {
  const decoded = (await decode(generated.StartProcessRequestSchema, hex("0a04 61ff6280"))) as {
    containerId: string;
  };
  assert.equal(decoded.containerId, "a\ufffdb\ufffd");
});

test("malformed bytes are refused with the reason", async () => {
  const message = generated.StartProcessRequestSchema;
  const nested = generated.NotifyRequestSchema;
  await assert.rejects(decode(message, hex("0a")), refused(/ends within/));
  await assert.rejects(decode(message, hex("0a05 6161")), refused(/ends within a field/));
  await assert.rejects(decode(message, hex("0affffffffffffffffff01")), refused(/ends within a field/));
  await assert.rejects(decode(message, hex("18ffffffffffffffffffff01")), refused(/more than ten bytes/));
  await assert.rejects(decode(message, hex("8080808010")), refused(/more than 32 bits/));
  await assert.rejects(decode(message, hex("888080808000")), refused(/more than 32 bits/));
  await assert.rejects(decode(message, hex("00")), refused(/illegal/));
  await assert.rejects(decode(message, hex("0f")), refused(/illegal/));
  await assert.rejects(decode(message, hex("7400")), refused(/did not begin/));
  await assert.rejects(decode(message, hex("737c")), refused(/another group/));
  await assert.rejects(decode(message, hex("73".repeat(200))), refused(/too deeply/));
  await assert.rejects(decode(message, hex("7d0000")), refused(/ends within a field/));
  // A part that says it is longer than what it is a part of.
  await assert.rejects(decode(nested, hex("0a04 0a05 0a0161")), refused(/ends within a field/));
  await assert.rejects(
    decode(generated.CreateSandboxRequestSchema, hex("4a03 0a0561")),
    refused(/ends within/),
  );
});

test("a message that is cut at any byte, or changed at any, gives a value or a RangeError", async () => {
  const message = generated.CreateSandboxRequestSchema;
  const init = {
    sandboxId: "s1",
    hostname: "h",
    sentinelContent: Uint8Array.of(0, 255),
    shmSizeBytes: 1n << 40n,
    sysctls: { "net.ipv4.x": "1" },
    network: {
      interfaces: [{ name: "eth0", mac: "02:00:00:00:00:01", mtu: 1400, addresses: ["10.0.0.2/24"] }],
      routes: [{ gateway: "10.0.0.1", device: "eth0", nextHops: [{ weight: 300, onlink: true }] }],
      rules: [Uint8Array.of(1, 2, 3)],
    },
  };
  const bytes = toBinary(message, create(message, init));
  const inputs = Array.from(bytes, (_, at) => bytes.subarray(0, at));
  for (let at = 0; at < bytes.length; at++) {
    for (const change of [0x01, 0x7f, 0x80, 0xff]) {
      const changed = bytes.slice();
      changed[at] = (changed[at] ?? 0) ^ change;
      inputs.push(changed);
    }
  }
  const outcomes = await Promise.allSettled(inputs.map((input) => decode(message, input)));
  for (const outcome of outcomes) {
    if (outcome.status === "rejected") assert.equal((outcome.reason as Error).name, "RangeError");
  }
});

test("values that a field cannot have are refused", async () => {
  const encode = (name: string, value: unknown) => guest.ask("encode", name, value);
  for (const status of [-1, 2 ** 32, 0.5, "1", null]) {
    await assert.rejects(encode("ProcessExited", { status }), GuestError, `status ${status}`);
  }
  for (const exitedAtUnixNano of [-1n, 2n ** 64n, 1]) {
    await assert.rejects(encode("ProcessExited", { exitedAtUnixNano }), GuestError, `${exitedAtUnixNano}`);
  }
  await assert.rejects(encode("ProcessExited", { execId: 7 }), GuestError);
  await assert.rejects(encode("NotifyRequest", { events: [null] }), GuestError);
});

const withoutNames = (value: unknown): unknown =>
  JSON.parse(JSON.stringify(value, (key, item: unknown) => (key === "$typeName" ? undefined : item)));

test("ttrpc's envelopes are those of the host's codec", async () => {
  const next = sequence(3);
  // The host's writes empty texts too.
  for (let round = 0; round < 100; round++) {
    const payload = Uint8Array.from({ length: next(300) }, () => next(256));
    const metadata = Array.from({ length: next(4) }, (_, n) => ({
      key: `k${n}`,
      value: "ä".repeat(1 + next(90)),
    }));
    const timeoutNano = [0n, 1n, -5n, 2n ** 62n][next(4)] ?? 0n;
    const request: RequestParts = { service: "caisson.X", method: "Y", payload, timeoutNano, metadata };
    const bytes = writeRequest(request, 10);
    assert.deepEqual(await guest.ask("writeRequest", "", request), bytes);
    const body = bytes.subarray(10);
    const read = plain(await guest.ask("readRequest", "", body)) as object;
    assert.deepEqual(withoutNames(read), plain(readRequest(body, 1024)));
    const status =
      next(2) === 0 ? undefined : { code: [0, 5, -1][next(3)] ?? 0, message: "ö".repeat(next(3)) };
    const response = writeResponse({ status, payload }, 10);
    assert.deepEqual(await guest.ask("writeResponse", "", { status, payload }), response);
    const answer = plain(await guest.ask("readResponse", "", response.subarray(10))) as object;
    assert.deepEqual(withoutNames(answer), plain(readResponse(response.subarray(10))));
  }
});

test("a request with more metadata than any real one has is refused", async () => {
  const metadata = Array.from({ length: 1025 }, () => ({ key: "k", value: "v" }));
  const parts = { service: "S", method: "M", payload: new Uint8Array(0), timeoutNano: 0n, metadata };
  await assert.rejects(
    guest.ask("readRequest", "", writeRequest(parts, 0)),
    refused(/over 1024 metadata entries/),
  );
});

test("a service has the methods of the generated one, in order", async () => {
  for (const [name, original] of [
    ["Agent", generated.Agent],
    ["Host", generated.Host],
  ] as const) {
    const methods = original.methods.map(({ name, localName, input, output, methodKind }) => ({
      name,
      localName,
      input: input.typeName,
      output: output.typeName,
      methodKind,
    }));
    assert.deepEqual(await guest.ask("service", name, null), methods);
  }
});
