/** Calls of containerd's Go client, taken down by a server in a shim's place (`ctr shim`). */
import { createHash } from "node:crypto";
import { mkdirSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { Task } from "../../../src/gen/containerd/task/v2/task_pb.ts";
import { Status } from "../../../src/gen/containerd/v1/types/task_pb.ts";
import { decodeRequest } from "../../../src/ttrpc/envelope.ts";
import { serveConnection, serviceHandlers } from "../../../src/ttrpc/index.ts";
import { byteStreamFromSocket } from "../../../src/ttrpc/node-stream.ts";
import { run } from "../../harness/run.ts";
import type { Save } from "./main.ts";
import { framesOf, type Recording, tee } from "./tee.ts";

const NAMESPACE = "fuzz";
const ID = "c1";

export async function recordTaskClient(save: Save): Promise<void> {
  const address = join(tmpdir(), "containerd.sock");
  const hash = createHash("sha256")
    .update(join(address, NAMESPACE, ID))
    .digest("hex");
  const socketPath = join("/run/containerd/s", hash);
  mkdirSync(dirname(socketPath), { recursive: true });
  const handlers = serviceHandlers(Task, {
    state: ({ id }) => ({
      id,
      bundle: "/bundle",
      pid: 4242,
      status: Status.RUNNING,
      stdout: "/run/fifo/out",
    }),
    delete: () => ({ pid: 4242, exitStatus: 7 }),
    start: () => ({ pid: 4242 }),
  });
  const recordings: Recording[] = [];
  const server = net.createServer({ allowHalfOpen: true }, (socket) => {
    const { stream, recording } = tee(byteStreamFromSocket(socket));
    recordings.push(recording);
    serveConnection(stream, [handlers]);
  });
  await new Promise<void>((resolve) => server.listen(socketPath, resolve));
  try {
    const verbs = ["state", "start", "delete"];
    for (const verb of verbs) {
      await run(["ctr", "--address", address, "--namespace", NAMESPACE, "shim", "--id", ID, verb]);
      const recording = recordings.pop();
      const [frame] = framesOf(recording?.received ?? []);
      if (recording === undefined || frame === undefined) throw new Error(`ctr shim ${verb} sent no request`);
      save("ttrpc-frames", `go-${verb}`, Buffer.concat(recording.received));
      save("ttrpc-server", `go-${verb}`, Buffer.concat(recording.received));
      save("ttrpc-request", `go-${verb}`, frame.data);
      const request = decodeRequest(frame.data);
      save(
        "task-requests",
        `go-${verb}`,
        Buffer.concat([Buffer.from(`${request.method}\n`), request.payload]),
      );
    }
  } finally {
    await new Promise((resolve) => server.close(resolve));
  }
}
