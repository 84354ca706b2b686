/** ttrpc: what containerd's clients and guests send to the servers of the shim, and what a guest answers. */
import assert from "node:assert/strict";
import { SandboxError } from "../../../src/base/errors.ts";
import { Agent } from "../../../src/gen/caisson/agent/v1/agent_pb.ts";
import { Task } from "../../../src/gen/containerd/task/v2/task_pb.ts";
import {
  decodeRequest,
  decodeResponse,
  encodeRequestFrame,
  encodeResponseFrame,
} from "../../../src/ttrpc/envelope.ts";
import { FrameDecoder, type FrameHeader, HEADER_LENGTH, writeHeader } from "../../../src/ttrpc/frame.ts";
import {
  createClient,
  memoryStreamPair,
  serveConnection,
  serviceHandlers,
  TtrpcClient,
} from "../../../src/ttrpc/index.ts";
import type { Random } from "../random.ts";
import { must, refusalKind, shapeOf, type Target } from "../target.ts";

/** Largest frame that these targets take, so that a frame of announced size can be cut off within one input. */
const MOST_BYTES = 16 << 10;

interface Cut {
  readonly frames: { readonly header: FrameHeader; readonly data: Uint8Array }[];
  readonly oversize: FrameHeader[];
  readonly atBoundary: boolean;
}

function cut(pieces: readonly Uint8Array[]): Cut {
  const frames: Cut["frames"] = [];
  const oversize: FrameHeader[] = [];
  const decoder = new FrameDecoder(
    {
      onFrame: (header, data) => frames.push({ header, data: data.slice() }),
      onOversize: (header) => oversize.push(header),
    },
    MOST_BYTES,
  );
  for (const piece of pieces) decoder.push(piece);
  return { frames, oversize, atBoundary: decoder.atBoundary };
}

const frames: Target = {
  name: "ttrpc-frames",
  about: "ttrpc's framing, in pieces of any size",
  format: "bytes",
  run(input, random) {
    const whole = cut([input]);
    assert.deepEqual(cut(random.pieces(input)), whole, "the pieces make a difference");
    if (whole.oversize.length === 0 && whole.atBoundary) {
      const again = whole.frames.map(({ header, data }) => {
        const bytes = new Uint8Array(HEADER_LENGTH + data.length);
        writeHeader(bytes, header);
        bytes.set(data, HEADER_LENGTH);
        return bytes;
      });
      must(Buffer.concat(again).equals(input), "the frames written again are other bytes");
    }
    const kinds = new Set(whole.frames.map(({ header }) => Math.min(header.type, 4)));
    return `${[...kinds].sort().join()} ${whole.oversize.length > 0} ${whole.atBoundary}`;
  },
};

const request: Target = {
  name: "ttrpc-request",
  about: "the Request message of a ttrpc frame",
  format: "bytes",
  run(input) {
    const decoded = decodeRequest(input);
    const { service, method, payload, timeoutNano } = decoded;
    const metadata = Object.fromEntries(decoded.metadata);
    const frame = encodeRequestFrame(1, 0, { service, method, payload, timeoutNano, metadata });
    const again = decodeRequest(frame.subarray(HEADER_LENGTH));
    assert.deepEqual(Object.fromEntries(again.metadata), metadata);
    assert.deepEqual([again.service, again.method, again.timeoutNano], [service, method, timeoutNano]);
    return shapeOf({ service, method, payload, metadata, late: timeoutNano < 0n });
  },
};

const response: Target = {
  name: "ttrpc-response",
  about: "the Response message of a ttrpc frame",
  format: "bytes",
  run(input) {
    const decoded = decodeResponse(input);
    assert.deepEqual(decodeResponse(encodeResponseFrame(1, decoded).subarray(HEADER_LENGTH)), {
      ...decoded,
      payload: Uint8Array.from(decoded.payload),
    });
    return shapeOf(decoded);
  },
};

/** Writes the pieces and ends the stream; a peer that has gone is no fault. */
async function feed(
  stream: ReturnType<typeof memoryStreamPair>[0],
  pieces: readonly Uint8Array[],
): Promise<void> {
  try {
    for (const piece of pieces) await stream.write(piece);
  } catch {
    // closed by the other side
  }
  stream.end();
}

async function drain(stream: ReturnType<typeof memoryStreamPair>[0]): Promise<number> {
  let bytes = 0;
  try {
    for await (const chunk of stream.readable) bytes += chunk.length;
  } catch {
    // closed by the other side
  }
  return bytes;
}

const server: Target = {
  name: "ttrpc-server",
  about: "a whole connection to the shim's Task service",
  format: "bytes",
  async run(input, random) {
    const [near, far] = memoryStreamPair();
    const answered = { ok: 0 };
    const handler = () => {
      answered.ok += 1;
      return {};
    };
    const methods = Task.methods.map((method) => [method.localName, handler] as const);
    const served = serveConnection(near, [serviceHandlers(Task, Object.fromEntries(methods))]);
    const [bytes] = await Promise.all([drain(far), feed(far, random.pieces(input)), served.closed]);
    return `${Math.min(answered.ok, 4)} ${Math.ceil(Math.log2(bytes + 1))}`;
  },
};

const client: Target = {
  name: "ttrpc-client",
  about: "a guest's answers to the shim's calls",
  format: "bytes",
  async run(input, random) {
    const [near, far] = memoryStreamPair();
    const ttrpc = new TtrpcClient(near, { peer: "the guest agent", maxMessageBytes: MOST_BYTES });
    const agent = createClient(Agent, ttrpc);
    const calls = [
      agent.startProcess({ containerId: "c", execId: "" }),
      agent.containerStats({ containerId: "c" }),
      agent.listProcesses({ containerId: "c" }),
    ];
    const [outcomes] = await Promise.all([
      Promise.allSettled(calls),
      drain(far),
      feed(far, random.pieces(input)),
      ttrpc.closed,
    ]);
    must(ttrpc.pendingCalls === 0, "calls are still pending on a closed connection");
    for (const outcome of outcomes) {
      if (outcome.status === "rejected" && !(outcome.reason instanceof SandboxError)) throw outcome.reason;
    }
    return outcomes
      .map((outcome) =>
        outcome.status === "fulfilled" ? shapeOf(outcome.value) : refusalKind(outcome.reason),
      )
      .join();
  },
};

const events: Target = {
  name: "agent-events",
  about: "a guest's hello, events and logs",
  format: "bytes",
  async run(input, random: Random) {
    const { GuestAgent } = await import("../../../src/agent/guest-agent.ts");
    const [near, far] = memoryStreamPair();
    const [dialled, guest] = memoryStreamPair();
    let seen = 0;
    const write = () => {
      seen += 1;
    };
    const log = { error: write, warn: write, info: write, debug: write, trace: write, child: () => log };
    const transport = { accept: async () => near, dial: async () => dialled };
    const connecting = GuestAgent.connect(
      { transport, log, guestLogLevel: "info", onEvent: write },
      new AbortController().signal,
    );
    const connected = connecting.then(async (agent) => {
      const lost = await agent.lost;
      agent.abandon(lost);
      return "greeted";
    });
    const fed = feed(far, random.pieces(input)).then(() => guest.end());
    try {
      const [outcome] = await Promise.all([connected, drain(far), fed]);
      return `${outcome} ${Math.min(seen, 8)}`;
    } finally {
      far.destroy();
      guest.destroy();
    }
  },
};

export const ttrpcTargets: readonly Target[] = [frames, request, response, server, client, events];
