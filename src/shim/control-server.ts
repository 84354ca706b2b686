/**
 * The sockets in a sandbox's run directory by which the operator's tools reach its shim: shim.sock (control service)
 * and, where the configuration allows it, console.sock. The directory lets only root in, and so do they (0600).
 */
import fs from "node:fs";
import net from "node:net";
import { describeError, SandboxError } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { type AsyncReleasable, UndoStack } from "../base/undo.ts";
import type { Config } from "../config/index.ts";
import { Control } from "../gen/caisson/control/v1/control_pb.ts";
import { sandboxPaths } from "../persist/run-dir.ts";
import type { Sandbox } from "../runtime/sandbox.ts";
import { serviceHandlers, TtrpcServer } from "../ttrpc/index.ts";
import { byteStreamFromSocket } from "../ttrpc/node-stream.ts";
import type { CallStats } from "./call-stats.ts";
import { ConsoleRelay } from "./console-relay.ts";
import { controlHandlers } from "./control-service.ts";
import type { EventLog } from "./event-log.ts";
import type { Tracing } from "./tracing/tracing.ts";

export interface ControlInit {
  readonly sandboxId: string;
  readonly namespace: string;
  /** The sandbox's run directory; must exist. */
  readonly dir: string;
  readonly sandbox: Sandbox;
  readonly config: Config;
  readonly calls: CallStats;
  readonly tracing: Pick<Tracing, "counts">;
  readonly events: EventLog;
  readonly log: Log;
}

/** Milliseconds for answers that are being written when the sandbox ends. */
const LAST_ANSWERS_MS = 200;

/** Opens the sockets. Never throws: a sandbox without them is less convenient, and runs. The caller disposes. */
export async function openControl(init: ControlInit): Promise<AsyncReleasable> {
  const log = init.log.child({ component: "control" });
  try {
    return await open(init, log);
  } catch (error) {
    log.warn({ err: describeError(error) }, "`shim` cannot reach this sandbox");
    return { [Symbol.asyncDispose]: () => Promise.resolve() };
  }
}

async function open(init: ControlInit, log: Log): Promise<AsyncReleasable> {
  const { sandbox, events, config } = init;
  const paths = sandboxPaths(init.dir);
  await using undo = new UndoStack();
  const relay = new ConsoleRelay({
    log,
    dial: async (signal) => (await sandbox.machine()).agent.dialConsole(signal),
    onEvent: (kind, containerId, detail) => events.add(kind, detail, containerId),
  });
  undo.defer("console sessions", () => relay.close());
  const handlers = controlHandlers({ ...init, consoleSessions: () => relay.sessions });
  const server = new TtrpcServer({ services: [serviceHandlers(Control, handlers)], log });
  undo.defer("control connections", () => server.close(LAST_ANSWERS_MS));
  await listen(paths.controlSocket, undo, (socket) => void server.serve(byteStreamFromSocket(socket)));
  if (config.agent.debugConsoleEnabled)
    await listen(paths.consoleSocket, undo, (socket) => void relay.serve(socket));
  // First of all, so that nobody waits for events any more when connections are drained.
  undo.defer("last event", () => events.add("sandbox-stopped", ""));
  noteMachine(sandbox, events);
  const owned = undo.move();
  return { [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

function noteMachine(sandbox: Sandbox, events: EventLog): void {
  events.add("sandbox-booting", "");
  sandbox.machine().then(
    (machine) => {
      const { hello, ready } = machine.steps;
      events.add("sandbox-ready", `hello after ${hello} ms, set up after ${ready} ms`);
      void machine.lost.then((reason) => events.add("sandbox-lost", firstLine(reason)));
    },
    (error: unknown) => events.add("sandbox-failed", firstLine(error)),
  );
}

const firstLine = (error: unknown): string => describeError(error).split("\n", 1)[0] ?? "";

async function listen(path: string, undo: UndoStack, serve: (socket: net.Socket) => void): Promise<void> {
  const server = net.createServer({ allowHalfOpen: true }, serve);
  await new Promise<void>((resolve, reject) => {
    server.once("error", (cause) =>
      reject(new SandboxError("ERR_HOST", `cannot listen at ${path}`, { cause })),
    );
    server.listen(path, resolve);
  });
  undo.defer(`socket ${path}`, () => void server.close());
  fs.chmodSync(path, 0o600);
}
