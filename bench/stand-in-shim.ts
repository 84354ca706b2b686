/** The control service of a shim without a machine: a run directory, a journal and figures of a guest that is made up. */

import net from "node:net";
import { join } from "node:path";
import { create } from "@bufbuild/protobuf";
import {
  ContainerStatsResponseSchema,
  GuestInfoResponseSchema,
} from "../src/gen/caisson/agent/v1/agent_pb.ts";
import { Control } from "../src/gen/caisson/control/v1/control_pb.ts";
import { Journal } from "../src/persist/journal.ts";
import { processStartTime } from "../src/persist/proc.ts";
import { makeSandboxDir, sandboxDir, sandboxPaths } from "../src/persist/run-dir.ts";
import { CALL_BOUNDS_SECONDS, type CallStats } from "../src/shim/call-stats.ts";
import { type ControlDeps, controlHandlers } from "../src/shim/control-service.ts";
import { EventLog } from "../src/shim/event-log.ts";
import { serviceHandlers, TtrpcServer } from "../src/ttrpc/index.ts";
import { byteStreamFromSocket } from "../src/ttrpc/node-stream.ts";

const [, , sandboxId = ""] = process.argv;
const dir = sandboxDir({ namespace: "bench", sandboxId, containerdAddress: "" });
makeSandboxDir(dir, (making) => {
  const journal = Journal.create(join(making, "journal"));
  const startTime = processStartTime(process.pid) ?? "";
  const facts = { sandbox: sandboxId, namespace: "bench", cpus: 1, memoryMiB: 256, startedAtMs: Date.now() };
  journal.add({ kind: "facts", facts });
  journal.add({ kind: "process", name: "shim", pid: process.pid, startTime });
});

const guest = create(GuestInfoResponseSchema, {
  memoryTotalBytes: 1n << 28n,
  memoryAvailableBytes: 1n << 27n,
});
const stats = create(ContainerStatsResponseSchema, {
  cpu: { usageUsec: 5n },
  memory: {
    usage: 1n << 20n,
    stat: Object.fromEntries(Array.from({ length: 40 }, (_, i) => [`key${i}`, 1n])),
  },
  pids: { current: 1n },
  interfaces: [{ name: "eth0", rxBytes: 1n, txBytes: 1n }],
});
const calls = {
  methods: ["Create", "Start", "State", "Exec", "Delete"].map((method) => ({
    method,
    count: 3,
    failed: 0,
    seconds: 1,
    buckets: CALL_BOUNDS_SECONDS.map((_, at) => at % 4),
  })),
} satisfies Pick<CallStats, "methods">;
const machine = {
  agent: {
    calls: { guestInfo: async () => guest, containerStats: async () => stats },
    hello: { kernelRelease: "6.1.0", agentVersion: "0.1.0", capabilities: [], bootSteps: [] },
  },
  link: { connections: 5, open: 2, sentBytes: 1000, receivedBytes: 1000 },
};
const container = {
  id: "c1",
  inGuest: true,
  init: { state: "running", pid: 2 },
  execs: [],
  bundle: "",
  paused: false,
};
const sandbox = {
  state: "running",
  failure: undefined,
  containers: [container],
  bootSteps: { prepared: 60, launched: 90, hello: 900, ready: 1000 },
  vmPid: 0,
  runningMachine: machine,
  // Of the real classes only what the service reads.
} as unknown as ControlDeps["sandbox"];

const handlers = controlHandlers({
  sandboxId,
  namespace: "bench",
  sandbox,
  calls,
  config: { files: [], agent: { debugConsoleEnabled: false } } as unknown as ControlDeps["config"],
  tracing: { counts: { exported: 0, dropped: 0 } },
  events: new EventLog(),
  consoleSessions: () => 0,
});
const server = new TtrpcServer({ services: [serviceHandlers(Control, handlers)] });
net
  .createServer({ allowHalfOpen: true }, (socket) => void server.serve(byteStreamFromSocket(socket)))
  .listen(sandboxPaths(dir).controlSocket, () => console.log("ready"));
