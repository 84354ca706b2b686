/** Our server against the Go implementation: `ctr shim` speaks the task API to a socket that we serve. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import fs from "node:fs";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { after, before, describe, it } from "node:test";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import { SandboxError } from "../../../src/base/errors.ts";
import { Task } from "../../../src/gen/containerd/task/v2/task_pb.ts";
import { Status } from "../../../src/gen/containerd/v1/types/task_pb.ts";
import { type CallContext, serviceHandlers, TtrpcServer } from "../../../src/ttrpc/index.ts";
import { byteStreamFromSocket } from "../../../src/ttrpc/node-stream.ts";
import { type RunResult, run } from "../../harness/run.ts";

// ctr looks for a shim's socket at this path (containerd pkg/shim/util_unix.go: SocketAddress).
const namespace = `ttrpc-${process.pid}`;
const address = path.join(os.tmpdir(), `${namespace}.sock`);
const socketFor = (id: string) =>
  path.join(
    "/run/containerd/s",
    createHash("sha256")
      .update(path.join(address, namespace, id))
      .digest("hex"),
  );

const seen: { method: string; id: string; context: CallContext }[] = [];
const note = ({ id }: { id: string }, context: CallContext) =>
  seen.push({ method: context.method, id, context });

const server = new TtrpcServer({
  services: [
    serviceHandlers(Task, {
      state(request, context) {
        note(request, context);
        return {
          id: request.id,
          bundle: "/b",
          pid: 4242,
          status: Status.RUNNING,
          exitedAt: timestampFromMs(1000),
        };
      },
      start(request, context) {
        note(request, context);
        throw new SandboxError("ERR_STATE", "cannot start c: it runs already");
      },
      delete(request, context) {
        note(request, context);
        return { pid: 4242, exitStatus: 7, exitedAt: timestampFromMs(1000) };
      },
    }),
  ],
});

const empty = new TtrpcServer({ services: [serviceHandlers(Task, {})] });
const listeners: net.Server[] = [];

const ctrShim = (id: string, verb: string): Promise<RunResult> =>
  run(["ctr", "--address", address, "--namespace", namespace, "shim", "--id", id, verb]);

async function listen(id: string, to: TtrpcServer): Promise<void> {
  const accept = (socket: net.Socket) => void to.serve(byteStreamFromSocket(socket));
  const listener = net.createServer({ allowHalfOpen: true }, accept);
  await new Promise<void>((resolve) => listener.listen(socketFor(id), resolve));
  listeners.push(listener);
}

before(async () => {
  fs.mkdirSync("/run/containerd/s", { recursive: true });
  await listen("c", server);
  await listen("empty", empty);
});
after(async () => {
  await server.close(1000);
  await empty.close(1000);
  for (const listener of listeners) await new Promise((resolve) => listener.close(resolve));
});

describe("TtrpcServer with a Go client", () => {
  it("answers a call with a message that the client understands", async () => {
    const result = await ctrShim("c", "state");
    assert.equal(result.code, 0, result.stderr);
    const state = JSON.parse(result.stdout) as Record<string, unknown>;
    assert.deepEqual([state.id, state.bundle, state.pid, state.status], ["c", "/b", 4242, Status.RUNNING]);
    // ctr 1.6 prints a time, 1.7 the message that carries it.
    const exitedAt = state.exited_at as { seconds?: number } | string;
    assert.equal(typeof exitedAt === "string" ? Date.parse(exitedAt) / 1000 : exitedAt.seconds, 1);
    assert.deepEqual([seen.at(-1)?.method, seen.at(-1)?.id], ["State", "c"]);
  });

  it("carries status code and message of an error", async () => {
    const result = await ctrShim("c", "start");
    assert.notEqual(result.code, 0);
    assert.match(result.stderr, /cannot start c: it runs already/);
  });

  it("answers Unimplemented, with the method's name, for what it does not offer", async () => {
    const result = await ctrShim("empty", "state");
    assert.notEqual(result.code, 0);
    assert.match(result.stderr, /method containerd.task.v2.Task\/State is not implemented/);
  });

  it("carries an exit status", async () => {
    const result = await ctrShim("c", "delete");
    assert.match(result.stderr + result.stdout, /status 7/);
  });
});
