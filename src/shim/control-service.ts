/** caisson.control.v1.Control: what the operator's tools ask the shim of a sandbox. Reads only. */

import { withDeadline } from "../base/deadline.ts";
import { describeError, SandboxError } from "../base/errors.ts";
import { VERSION } from "../base/version.ts";
import type { Config } from "../config/index.ts";
import type { Control } from "../gen/caisson/control/v1/control_pb.ts";
import type { Machine } from "../runtime/boot.ts";
import type { Container } from "../runtime/container.ts";
import type { Sandbox } from "../runtime/sandbox.ts";
import type { CallContext, ServiceHandlers } from "../ttrpc/index.ts";
import { CALL_BOUNDS_SECONDS, type CallStats } from "./call-stats.ts";
import type { EventLog } from "./event-log.ts";
import type { Tracing } from "./tracing/tracing.ts";

export interface ControlDeps {
  readonly sandboxId: string;
  readonly namespace: string;
  readonly sandbox: Pick<
    Sandbox,
    "state" | "failure" | "containers" | "bootSteps" | "vmPid" | "runningMachine"
  >;
  readonly config: Pick<Config, "files" | "agent">;
  readonly calls: Pick<CallStats, "methods">;
  readonly tracing: Pick<Tracing, "counts">;
  readonly events: Pick<EventLog, "after">;
  readonly consoleSessions: () => number;
}

/** Milliseconds that a guest gets for its figures: whoever asks wants to know at once that it hangs. */
const GUEST_LIMIT_MS = 2_000;
/** Milliseconds that an Events call may wait. */
const EVENTS_LIMIT_MS = 60_000;

export function controlHandlers(deps: ControlDeps): ServiceHandlers<typeof Control> {
  const { sandbox, config } = deps;
  const startedAtMs = Date.now() - Math.round(process.uptime() * 1000);
  return {
    status: () => ({
      sandboxId: deps.sandboxId,
      namespace: deps.namespace,
      state: sandbox.state,
      failure: sandbox.failure === undefined ? "" : describeError(sandbox.failure),
      containers: sandbox.containers.map(containerStatus),
      bootSteps: steps(sandbox.bootSteps),
      ...(sandbox.runningMachine && { guest: guestFacts(sandbox.runningMachine) }),
      qemuPid: sandbox.vmPid,
      shim: {
        pid: process.pid,
        version: VERSION,
        nodeVersion: process.version,
        startedAtUnixMs: BigInt(startedAtMs),
      },
      consoleEnabled: config.agent.debugConsoleEnabled,
      consoleSessions: deps.consoleSessions(),
      configFiles: [...config.files],
    }),
    stats: async () => ({
      calls: deps.calls.methods.map((stats) => ({
        ...stats,
        count: BigInt(stats.count),
        failed: BigInt(stats.failed),
        buckets: stats.buckets.map(BigInt),
      })),
      callBoundsSeconds: [...CALL_BOUNDS_SECONDS],
      ...(await guestStats(sandbox.runningMachine, sandbox.containers)),
      ...(sandbox.runningMachine && { vsock: linkStats(sandbox.runningMachine) }),
      bootSteps: steps(sandbox.bootSteps),
      state: sandbox.state,
      qemuPid: sandbox.vmPid,
      heapUsedBytes: BigInt(process.memoryUsage().heapUsed),
      spansExported: BigInt(deps.tracing.counts.exported),
      spansDropped: BigInt(deps.tracing.counts.dropped),
    }),
    events: async ({ after, waitMs }, { signal }: CallContext) => {
      const limit = Math.min(waitMs, EVENTS_LIMIT_MS);
      const { events, dropped } = await deps.events.after(Number(after), limit, signal);
      return {
        dropped: BigInt(dropped),
        events: events.map(({ number, timeMs, ...rest }) => ({
          ...rest,
          number: BigInt(number),
          timeUnixMs: BigInt(timeMs),
        })),
      };
    },
  };
}

function containerStatus(container: Container) {
  const { id, bundle, init, paused, execs } = container;
  return {
    id,
    bundle,
    state: paused && init.state === "running" ? "paused" : init.state,
    guestPid: init.pid,
    exitStatus: init.exit?.status ?? 0,
    execIds: execs.map(({ execId }) => execId),
  };
}

function guestFacts({ agent }: Machine) {
  const { kernelRelease, agentVersion, capabilities, bootSteps } = agent.hello;
  return {
    kernelRelease,
    agentVersion,
    capabilities,
    bootSteps: bootSteps.map(({ name, uptimeUs }) => ({ name, milliseconds: Number(uptimeUs) / 1000 })),
  };
}

/** The guest's word, or why there is none: a guest that hangs must not take the shim's own figures with it. */
async function guestStats(machine: Machine | undefined, containers: readonly Container[]) {
  if (machine === undefined) return { guestError: "the guest is not running" };
  const { calls } = machine.agent;
  const running = containers.filter(({ inGuest, init }) => inGuest && init.state === "running");
  try {
    const [guest, ...stats] = await withDeadline(
      Promise.all([
        calls.guestInfo({}),
        ...running.map(async ({ id }) => ({
          id,
          // One that ended meanwhile has none.
          stats: await calls.containerStats({ containerId: id }).catch(() => undefined),
        })),
      ]),
      GUEST_LIMIT_MS,
      "asking the guest for its figures",
    );
    return {
      guest,
      containers: stats.flatMap(({ id, stats }) => (stats === undefined ? [] : [{ id, stats }])),
    };
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    return { guestError: error instanceof SandboxError ? error.message : describeError(error) };
  }
}

function linkStats({ link }: Machine) {
  return {
    connections: BigInt(link.connections),
    open: BigInt(link.open),
    sentBytes: BigInt(link.sentBytes),
    receivedBytes: BigInt(link.receivedBytes),
  };
}

const steps = (all: Readonly<Record<string, number>>) =>
  Object.entries(all).map(([name, milliseconds]) => ({ name, milliseconds }));
