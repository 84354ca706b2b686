/**
 * The server process: one per sandbox. Serves the Task API on the listening socket that `start` made, publishes events
 * to containerd, and ends when containerd has shut it down, or by a signal, after the sandbox was torn down.
 */
import fs from "node:fs";
import net from "node:net";
import path from "node:path";
import { describeError } from "../base/errors.ts";
import { failPoint } from "../base/failpoint.ts";
import { scaledMs } from "../base/timeouts.ts";
import { VERSION } from "../base/version.ts";
import { Sandbox as SandboxV1 } from "../gen/containerd/runtime/sandbox/v1/sandbox_pb.ts";
import { type CreateTaskRequest, Task as TaskV2 } from "../gen/containerd/task/v2/task_pb.ts";
import { sandboxDir, sandboxPaths, shimSocketPath } from "../persist/run-dir.ts";
import { serviceHandlers, TtrpcServer } from "../ttrpc/index.ts";
import { byteStreamFromSocket } from "../ttrpc/node-stream.ts";
import type { ShimArguments } from "./arguments.ts";
import { CallStats } from "./call-stats.ts";
import { openControl } from "./control-server.ts";
import { EventLog } from "./event-log.ts";
import { EventPublisher } from "./event-publisher.ts";
import { IdleEnd } from "./idle-end.ts";
import { sandboxOpener } from "./open-sandbox.ts";
import { PodSandbox } from "./pod-sandbox.ts";
import { sandboxHandlers } from "./sandbox-service.ts";
import { createShimLog } from "./shim-log.ts";
import { TaskEvents } from "./task-events.ts";
import { configPathOf, taskHandlers } from "./task-service.ts";
import { Tasks } from "./tasks.ts";
import { Tracing } from "./tracing/tracing.ts";

export interface ServeInit {
  /** Descriptor of the listening unix socket. */
  readonly listenFd: number;
  readonly environment: NodeJS.ProcessEnv;
}

/** Same messages as version 2 under another name (containerd api/runtime/task/v3). */
const TASK_V3 = "containerd.task.v3.Task";
/** Milliseconds that the last events get to reach containerd before the process ends. */
const LAST_EVENTS_MS = 2_000;
/** Milliseconds for the last spans to reach their collector. */
const LAST_SPANS_MS = 1_000;
/** Milliseconds without sandbox and calls: `start` or containerd was killed then, and nobody knows what we are for. */
const UNUSED_LIMIT_MS = 30_000;
/** Milliseconds for the last answers, that of Shutdown among them, to leave. */
const LAST_ANSWERS_MS = 500;

export function serveShim(args: ShimArguments, init: ServeInit): void {
  const identity = { namespace: args.namespace, sandboxId: args.id, containerdAddress: args.address };
  const socket = args.socket === "" ? shimSocketPath(identity) : args.socket;
  const log = createShimLog(path.join(args.bundle, "log"), args.debug, {
    sandbox: args.id,
    pid: process.pid,
  });
  const publisher = new EventPublisher({
    ...(init.environment.TTRPC_ADDRESS && { address: init.environment.TTRPC_ADDRESS }),
    namespace: args.namespace,
    log: log.child({ component: "events" }),
  });
  const dir = sandboxDir(identity);
  const calls = new CallStats();
  const tracing = new Tracing({
    sandboxId: args.id,
    namespace: args.namespace,
    environment: init.environment,
    log,
  });
  const events = new EventLog();
  let hadSandbox = false;
  const tasks = new Tasks({
    log,
    events: new TaskEvents(events.tee(publisher)),
    openSandbox: sandboxOpener({ identity, runDir: dir, socket, log }),
    onSandbox: ({ sandbox, config }) => {
      hadSandbox = true;
      log.addFile(sandboxPaths(dir).shimLog);
      const { namespace, sandboxId } = identity;
      return openControl({ sandboxId, namespace, dir, sandbox, config, calls, tracing, events, log });
    },
  });

  let ending: Promise<void> | undefined;
  const end = (reason: string): Promise<void> => {
    ending ??= (async () => {
      log.info({}, `ending: ${reason}`);
      try {
        await tasks.stop();
        failPoint("shutdown.stopped");
        await publisher.close(LAST_EVENTS_MS);
      } catch (error) {
        // What is left is in the journal; a shim that stays would keep containerd from having it undone.
        log.error({ err: describeError(error) }, "the end of the shim failed");
      }
      fs.rmSync(socket, { force: true });
      // Not awaited: it waits for the answer of the very Shutdown call that ends us.
      void server
        .close(LAST_ANSWERS_MS)
        .then(() => tracing.close(LAST_SPANS_MS))
        .finally(() => process.exit(0));
    })();
    return ending;
  };

  const onShutdown = () => end("containerd asked for it");
  const handlers = tracing.traced(taskHandlers({ tasks, version: VERSION, onShutdown }), (request) =>
    configPathOf((request as CreateTaskRequest).options),
  );
  const podHandlers = tracing.traced(
    sandboxHandlers({ pod: new PodSandbox(tasks), tasks, configPath: args.config, onShutdown }),
    () => args.config,
  );
  const idle = new IdleEnd(scaledMs(UNUSED_LIMIT_MS), () => {
    if (tasks.unused) void end("there is no sandbox, and nobody calls");
  });
  const server = new TtrpcServer({
    services: [
      serviceHandlers(TaskV2, handlers),
      serviceHandlers(TaskV2, handlers, TASK_V3),
      serviceHandlers(SandboxV1, podHandlers),
    ].map((service) => idle.watched(calls.measured(service))),
    log: log.child({ component: "ttrpc" }),
    // No client half-closes: an end of file is the end of containerd, and calls in progress are to know.
    limits: { halfCloseMs: 0 },
  });
  const listener = net.createServer((socket) => {
    void server.serve(byteStreamFromSocket(socket)).then(() => hadSandbox && idle.hungUp());
  });
  listener.on("error", (error) => log.error({ err: describeError(error) }, "the task socket failed"));
  listener.listen({ fd: init.listenFd }, () => failPoint("server.listening"));

  for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"] as const) {
    process.on(signal, () => void end(`received ${signal}`));
  }
  process.on("uncaughtException", (error) => log.error({ err: error.stack }, "uncaught exception"));
  process.on("unhandledRejection", (error) =>
    log.error({ err: error instanceof Error ? error.stack : String(error) }, "unhandled rejection"),
  );
}
