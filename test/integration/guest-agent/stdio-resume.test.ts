/** The two real halves of a process's output over connections that break or stand still at any byte. Needs root. */
import assert from "node:assert/strict";
import { randomInt } from "node:crypto";
import { test } from "node:test";
import { create, toBinary } from "@bufbuild/protobuf";
import type { ByteStream } from "../../../src/base/byte-stream.ts";
import { silentLog } from "../../../src/base/log.ts";
import { StreamKind, StreamOpenSchema } from "../../../src/gen/caisson/agent/v1/agent_pb.ts";
import type { OutputSink } from "../../../src/runtime/stdio/endpoints.ts";
import { ProcessIo } from "../../../src/runtime/stdio/process-io.ts";
import { FramedStream } from "../../../src/streams/index.ts";
import { useWorld } from "../guest-agent-container/world.ts";

const world = useWorld();
/** Connections that fail in a row before output is given up, less the last. */
const FAILURES = 3;

type Failure = "breaks" | "stands still";

/** The connection up to byte `limit` of what the guest sends. */
function failing(connection: ByteStream, limit: number, how: Failure): ByteStream {
  let over: () => void = () => undefined;
  const destroyed = new Promise<void>((resolve) => {
    over = resolve;
  });
  return {
    ...connection,
    write: (bytes) => connection.write(bytes),
    end: () => connection.end(),
    destroy: (error) => {
      over();
      connection.destroy(error);
    },
    readable: (async function* () {
      let left = limit;
      for await (const chunk of connection.readable) {
        const part = chunk.subarray(0, left);
        left -= part.length;
        if (part.length > 0) yield part;
        if (left > 0) continue;
        if (how === "stands still") await destroyed;
        throw new Error("cut by the test");
      }
    })(),
  };
}

async function outputThrough(id: string, limits: readonly number[], how: Failure): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  const stdout: OutputSink = {
    write: async (bytes) => void chunks.push(bytes),
    finish: async () => undefined,
    patienceMs: 400,
    close: () => undefined,
    released: Promise.resolve(),
  };
  const io = new ProcessIo({ stdin: undefined, stdout, stderr: undefined }, silentLog);
  let dials = 0;
  await io.attach(async (_, received) => {
    const connection = await world().agent.dial(1025);
    const limit = limits[dials++];
    const open = { containerId: id, execId: "", kind: StreamKind.STDOUT, received: BigInt(received) };
    const stream = FramedStream.open(
      // A stream that has stood still and gives nothing when it is opened again is given up.
      limit === undefined ? connection : failing(connection, limit, dials === 1 ? how : "breaks"),
      toBinary(StreamOpenSchema, create(StreamOpenSchema, open)),
    );
    await stream.opened;
    return stream;
  });
  try {
    assert.equal(await io.drain(), "delivered");
  } finally {
    io.close();
  }
  return Buffer.concat(chunks);
}

/** Bytes of the answer to OPEN (a CREDIT frame): a stream that fails before was never there. */
const ANSWER_BYTES = 12;

for (const how of ["breaks", "stands still"] as const) {
  test(`output arrives whole and once over a connection that ${how} at any byte`, async () => {
    for (const lines of [1, 20, 3_000, 100_000]) {
      const expected = Array.from({ length: lines }, (_, i) => `${i + 1}\n`).join("");
      for (let round = 0; round < 5; round++) {
        const id = await world().create(["sh", "-c", `seq 1 ${lines}`]);
        await world().start(id);
        // Frame headers, the middle of a frame, and with one line the end itself.
        const most = Math.min(expected.length + 20, 400_000);
        const limits = Array.from({ length: FAILURES }, () => ANSWER_BYTES + randomInt(most));
        const got = (await outputThrough(id, limits, how)).toString();
        assert.ok(got === expected, `${lines} lines, cut at ${limits.join(", ")}: ${got.length} bytes`);
        await world().exit(id);
        await world().delete(id);
      }
    }
  });
}
