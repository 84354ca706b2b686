import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { SandboxError } from "../../../src/base/errors.ts";
import { Task } from "../../../src/gen/containerd/task/v2/task_pb.ts";
import { Task as TaskV3 } from "../../../src/gen/containerd/task/v3/task_pb.ts";
import {
  createClient,
  memoryStreamPair,
  serveConnection,
  serviceHandlers,
  TtrpcClient,
} from "../../../src/ttrpc/index.ts";
import type { ServiceRegistration } from "../../../src/ttrpc/service.ts";

function connect(...services: ServiceRegistration[]): TtrpcClient {
  const [near, far] = memoryStreamPair();
  serveConnection(near, services);
  return new TtrpcClient(far);
}

describe("typed services", () => {
  it("carry messages both ways and tell the handler about the call", async () => {
    const client = connect(
      serviceHandlers(Task, {
        create: (request, context) => ({
          pid: request.rootfs.length + (context.metadata.get("ns")?.length ?? 0),
        }),
        async wait(request) {
          return { exitStatus: request.execId === "e1" ? 7 : 1, exitedAt: { seconds: 5n, nanos: 6 } };
        },
      }),
    );
    const tasks = createClient(Task, client, { timeoutMs: 5000 });
    const created = await tasks.create(
      { id: "a", rootfs: [{ type: "overlay", source: "overlay", options: ["ro"] }] },
      { metadata: { ns: "x" } },
    );
    assert.equal(created.pid, 2);
    const waited = await tasks.wait({ id: "a", execId: "e1" });
    assert.equal(waited.exitStatus, 7);
    assert.equal(waited.exitedAt?.seconds, 5n);
    client.close();
  });

  it("answer Unimplemented for a method without a handler", async () => {
    const client = connect(serviceHandlers(Task, {}));
    await assert.rejects(createClient(Task, client).checkpoint({ id: "a" }), {
      code: "ERR_UNIMPLEMENTED",
      message: "method containerd.task.v2.Task/Checkpoint is not implemented",
    });
    client.close();
  });

  it("serve the same handlers under another name", async () => {
    const handlers = { start: () => ({ pid: 42 }) };
    const client = connect(serviceHandlers(Task, handlers), serviceHandlers(Task, handlers, TaskV3.typeName));
    assert.equal((await createClient(Task, client).start({ id: "a" })).pid, 42);
    assert.equal((await createClient(TaskV3, client).start({ id: "a" })).pid, 42);
    client.close();
  });

  it("keep `this` of a handler object", async () => {
    class Service {
      readonly pid = 3;
      start() {
        return { pid: this.pid };
      }
    }
    const client = connect(serviceHandlers(Task, new Service()));
    assert.equal((await createClient(Task, client).start({ id: "a" })).pid, 3);
    client.close();
  });

  it("refuse a request that is not the method's message", async () => {
    const client = connect(serviceHandlers(Task, { start: () => ({ pid: 1 }) }));
    await assert.rejects(client.call(Task.typeName, "Start", Uint8Array.of(0x0a, 0x7f)), {
      code: "ERR_INVALID_ARGUMENT",
      message: /containerd.task.v2.Task\/Start is not a containerd.task.v2.StartRequest/,
    });
    client.close();
  });

  it("report an answer that is not the method's message as a protocol error", async () => {
    const client = connect({
      name: Task.typeName,
      methods: new Map([["Start", async () => Uint8Array.of(0xff)]]),
    });
    await assert.rejects(createClient(Task, client).start({ id: "a" }), { code: "ERR_PROTOCOL" });
    client.close();
  });

  it("carry the status of a handler's error", async () => {
    const client = connect(
      serviceHandlers(Task, {
        kill: () => {
          throw new SandboxError("ERR_PROCESS_FINISHED", "process a has exited already");
        },
      }),
    );
    await assert.rejects(createClient(Task, client).kill({ id: "a", signal: 9 }), {
      code: "ERR_NOT_FOUND",
      message: "process a has exited already",
    });
    client.close();
  });

  it("answer a thousand concurrent calls, each with its own answer", async () => {
    const client = connect(
      serviceHandlers(Task, {
        async start({ id }) {
          await new Promise((resolve) => setTimeout(resolve, Number(id) % 7));
          return { pid: Number(id) };
        },
      }),
    );
    const tasks = createClient(Task, client);
    const ids = Array.from({ length: 1000 }, (_, i) => i);
    const answers = await Promise.all(ids.map(async (id) => (await tasks.start({ id: String(id) })).pid));
    assert.deepEqual(answers, ids);
    client.close();
  });
});
