/**
 * The real agent process fed with changed frames on all of its ports: it stays alive, answers its rightful host, and keeps
 * neither memory nor descriptors. Only calls about containers that do not exist are changed: nothing else of this machine
 * may come of them. Needs root.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { create, type DescMessage, toBinary } from "@bufbuild/protobuf";
import { withDeadline } from "../../../src/base/deadline.ts";
import {
  Agent,
  ContainerStatsRequestSchema,
  ListProcessesRequestSchema,
  StartProcessRequestSchema,
} from "../../../src/gen/caisson/agent/v1/agent_pb.ts";
import { encodeRequestFrame } from "../../../src/ttrpc/envelope.ts";
import { readCorpus } from "../../fuzz/corpus.ts";
import { mutateBytes } from "../../fuzz/mutate.ts";
import { Random } from "../../fuzz/random.ts";
import { AgentProcess } from "./agent-process.ts";

const SEED = 7;
const INPUTS = 300;
/** Connections at one time. */
const PARALLEL = 6;
/** What the agent may have grown by afterwards, in KiB; it has some 4 MiB in all. */
const GROWTH_KIB = 6 << 10;
const LIMIT_MS = 20_000;

let agent: AgentProcess;
before(async () => {
  agent = await AgentProcess.start({ ownNamespaces: true });
});
after(() => agent[Symbol.asyncDispose]());

const residentKib = (): number =>
  Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${agent.pid}/status`, "utf8"))?.[1]);

/** Sends `bytes` in pieces and waits until the agent has closed the connection, which it does at the end of ours. */
async function feed(port: number, pieces: readonly Uint8Array[]): Promise<void> {
  const socket = await agent.dialRaw(port);
  socket.on("error", () => undefined);
  socket.resume();
  const closed = once(socket, "close");
  for (const piece of pieces) socket.write(piece);
  socket.end();
  await withDeadline(closed, LIMIT_MS, `the end of a connection to port ${port}`);
}

async function feedChanged(
  port: number,
  seeds: readonly Uint8Array[],
  allowed: (bytes: Uint8Array) => boolean,
) {
  await agent.calls.guestInfo({});
  const descriptors = agent.openDescriptors;
  const resident = residentKib();
  const random = new Random(SEED + port);
  const inputs = Array.from({ length: INPUTS }, () => mutateBytes(random.pick(seeds), random, seeds)).filter(
    allowed,
  );
  assert.ok(inputs.length > INPUTS / 2, "too few inputs are left");
  const worker = async () => {
    for (let input = inputs.pop(); input !== undefined; input = inputs.pop())
      await feed(port, random.pieces(input));
  };
  await Promise.all(Array.from({ length: PARALLEL }, worker));
  const { containerCount, streamCount } = await agent.calls.guestInfo({});
  assert.deepEqual([containerCount, streamCount], [0, 0]);
  assert.ok(
    agent.openDescriptors <= descriptors,
    `${agent.openDescriptors} descriptors, ${descriptors} before`,
  );
  const grown = residentKib() - resident;
  assert.ok(grown < GROWTH_KIB, `the agent has grown by ${grown} KiB`);
  assert.equal(agent.child.exitCode, null);
}

function call(id: number, method: string, schema: DescMessage, init: Record<string, unknown>): Uint8Array {
  const payload = toBinary(schema, create(schema, init));
  return encodeRequestFrame(id, 0, { service: Agent.typeName, method, payload, timeoutNano: 1_000_000_000n });
}

const calls = [
  call(1, "StartProcess", StartProcessRequestSchema, { containerId: "c1", execId: "e1" }),
  call(3, "ContainerStats", ContainerStatsRequestSchema, { containerId: "c1" }),
  call(5, "ListProcesses", ListProcessesRequestSchema, { containerId: "c1" }),
];

test("calls on port 1024", () => feedChanged(1024, [...calls, Buffer.concat(calls)], () => true));

const streams = readCorpus("stream-frames").map(({ bytes }) => bytes);

test("stdio streams on port 1025", () => feedChanged(1025, streams, () => true));

// An OPEN that is right would run a program.
test("console frames on port 1026", () => feedChanged(1026, streams, (bytes) => bytes[0] !== 1));

test("forwarded ports on port 1027", () => feedChanged(1027, streams, () => true));
