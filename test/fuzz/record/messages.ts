/** Messages with every field set, for those that no peer could be made to send here. */
import {
  create,
  type DescField,
  type DescMessage,
  type MessageShape,
  ScalarType,
  toBinary,
} from "@bufbuild/protobuf";
import * as agent from "../../../src/gen/caisson/agent/v1/agent_pb.ts";
import { Task } from "../../../src/gen/containerd/task/v2/task_pb.ts";
import { PodSandboxConfigSchema } from "../../../src/gen/runtime/v1/api_pb.ts";
import { encodeFrame, encodeSize, encodeU32, FrameType } from "../../../src/streams/frame.ts";
import { encodeReason } from "../../../src/streams/reason.ts";
import { encodeRequestFrame, encodeResponseFrame } from "../../../src/ttrpc/envelope.ts";
import { HEADER_LENGTH } from "../../../src/ttrpc/frame.ts";
import type { Save } from "./main.ts";

/** `message` with each field set, nested ones too, and the first choice of each oneof. */
function sample(message: DescMessage, depth = 3): MessageShape<DescMessage> {
  const init: Record<string, unknown> = {};
  for (const member of message.members) {
    if (member.kind === "oneof") {
      const [field] = member.fields;
      if (field !== undefined)
        init[member.localName] = { case: field.localName, value: fieldValue(field, depth) };
    } else init[member.localName] = fieldValue(member, depth);
  }
  return create(message, init as never);
}

function fieldValue(field: DescField, depth: number): unknown {
  switch (field.fieldKind) {
    case "list":
      if (field.listKind === "message")
        return depth === 0 ? [] : [sample(field.message, depth - 1), sample(field.message, 0)];
      return field.listKind === "scalar"
        ? [scalarOf(field.scalar, field.name), scalarOf(field.scalar, field.name)]
        : [];
    case "map": {
      const value = field.mapKind === "scalar" ? scalarOf(field.scalar, field.name) : undefined;
      return value === undefined ? {} : { a: value, "b/c": value };
    }
    case "message":
      return depth === 0 ? undefined : sample(field.message, depth - 1);
    case "enum":
      return 1;
    default:
      return scalarOf(field.scalar, field.name);
  }
}

function scalarOf(type: ScalarType, name: string): unknown {
  if (type === ScalarType.STRING) return textFor(name);
  if (type === ScalarType.BYTES) return new TextEncoder().encode('{"args":["true"],"cwd":"/"}');
  if (type === ScalarType.BOOL) return true;
  const long = [ScalarType.INT64, ScalarType.UINT64, ScalarType.SINT64, ScalarType.FIXED64].includes(type);
  return long ? 1_700_000_000_000_000_000n : 7;
}

/** What a field of this name means; a decoder behind it shall get further than its first check. */
function textFor(name: string): string {
  if (/mac/.test(name)) return "02:00:00:00:00:01";
  if (/addresses|destination/.test(name)) return "10.1.2.0/24";
  if (/address|gateway|source|server/.test(name)) return "10.1.2.3";
  if (/device|interface|^name$/.test(name)) return "eth0";
  if (/path|bundle|stdin|stdout|stderr/.test(name)) return "/run/x/y";
  return name;
}

const frame = (type: FrameType, payload?: Uint8Array) => Buffer.from(encodeFrame(type, payload));
const text = (value: string) => new TextEncoder().encode(value);

export function sampleMessages(save: Save): void {
  agent.file_caisson_agent_v1_agent.messages.forEach((message) => {
    const bytes = toBinary(message, sample(message));
    if (bytes.length > 40)
      save("guest-messages", message.name, Buffer.concat([text(`${message.name}\n`), bytes]));
  });
  const network = sample(agent.ApplyNetworkRequestSchema);
  save("guest-network", "full", toBinary(agent.ApplyNetworkRequestSchema, network as never));
  Task.methods.forEach((method) => {
    const bytes = toBinary(method.input, sample(method.input));
    save("task-requests", method.name, Buffer.concat([text(`${method.name}\n`), bytes]));
  });
  const create = toBinary(Task.method.create.input, sample(Task.method.create.input) as never);
  const request = { service: Task.typeName, method: "Create", payload: create, timeoutNano: 5_000_000_000n };
  const metadata = { "containerd-namespace-ttrpc": "k8s.io", key: ["one", "two"] };
  save("ttrpc-server", "create", encodeRequestFrame(1, 0, { ...request, metadata }));
  save("ttrpc-request", "create", encodeRequestFrame(1, 0, { ...request, metadata }).subarray(HEADER_LENGTH));
  const failure = { status: { code: 5, message: "container c not found" }, payload: new Uint8Array() };
  save("ttrpc-response", "not-found", encodeResponseFrame(1, failure).subarray(HEADER_LENGTH));
  save("ttrpc-client", "answers", answers());
  save("agent-events", "events", events());
  save("pod-config", "full", toBinary(PodSandboxConfigSchema, sample(PodSandboxConfigSchema) as never));
  save("pod-config", "empty", new Uint8Array());
  streams(save);
}

/** To StartProcess, ContainerStats and ListProcesses. */
function answers(): Uint8Array {
  const outputs = [
    agent.StartProcessResponseSchema,
    agent.ContainerStatsResponseSchema,
    agent.ListProcessesResponseSchema,
  ];
  return Buffer.concat(
    outputs.map((schema, index) =>
      encodeResponseFrame(2 * index + 1, { payload: toBinary(schema as DescMessage, sample(schema)) }),
    ),
  );
}

function events(): Uint8Array {
  const { service } = { service: agent.Host.typeName };
  const hello = { ...sample(agent.HelloRequestSchema), protocolVersion: 1 } as never;
  const event = (value: unknown) => create(agent.EventSchema, { event: value } as never);
  const notify = create(agent.NotifyRequestSchema, {
    events: [
      event({
        case: "log",
        value: { level: "warn", message: "slow", fieldsJson: '{"a":1}', timeUnixNano: 1n },
      }),
      event({
        case: "processExited",
        value: { containerId: "c", execId: "", status: 1, exitedAtUnixNano: 7n },
      }),
      event({ case: "outOfMemory", value: { containerId: "c" } }),
      event({ case: "device", value: { subsystem: "net", name: "eth1", mac: "02:00:00:00:00:01" } }),
    ],
  });
  return Buffer.concat([
    encodeRequestFrame(1, 0, {
      service,
      method: "Hello",
      payload: toBinary(agent.HelloRequestSchema, hello),
    }),
    encodeRequestFrame(3, 0, {
      service,
      method: "Notify",
      payload: toBinary(agent.NotifyRequestSchema, notify),
    }),
  ]);
}

function streams(save: Save): void {
  const open = toBinary(agent.StreamOpenSchema, sample(agent.StreamOpenSchema) as never);
  const credit = frame(FrameType.Credit, encodeU32(65_536));
  const data = frame(FrameType.Data, text("hello\n"));
  const end = frame(FrameType.Eof);
  const guest = Buffer.concat([credit, data, data, frame(FrameType.Exit, encodeU32(3)), end]);
  const refused = frame(FrameType.Reset, encodeReason("no such process"));
  const host = Buffer.concat([
    frame(FrameType.Open, open),
    credit,
    frame(FrameType.Resize, encodeSize(80, 24)),
    data,
    end,
  ]);
  save("stream-frames", "guest", guest);
  save("stream-frames", "host", host);
  save("stream-frames", "refused", refused);
  save("stream-session", "opener", Buffer.concat([Buffer.of(0), guest]));
  save("stream-session", "refused", Buffer.concat([Buffer.of(0), refused]));
  save("stream-session", "acceptor", Buffer.concat([Buffer.of(1), host]));
}
