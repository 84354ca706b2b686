/** Binds a host-side process to the guest's agent. */

import type { GuestAgent } from "../agent/guest-agent.ts";
import { describeError, errnoOf, SandboxError } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { timeoutMs } from "../base/timeouts.ts";
import { StreamKind } from "../gen/caisson/agent/v1/agent_pb.ts";
import type { ContainerProcess, ProcessGuest } from "./container-process.ts";

/** The guest's kind of each stream (docs/protocol.md, `StreamOpen`). */
export const STREAM_KINDS = {
  stdin: StreamKind.STDIN,
  stdout: StreamKind.STDOUT,
  stderr: StreamKind.STDERR,
} as const;

export interface GuestProcessInit {
  /** Whether the guest is gone: then there is nothing left to remove in it. */
  readonly isLost: () => boolean;
  readonly log: Log;
  /** What the process waits for before it is started. */
  readonly beforeStart?: () => Promise<void>;
  /** Its creation in the guest, which may still be under way: the guest takes calls in their order. */
  readonly created?: Promise<void>;
}

export function guestProcess(
  agent: GuestAgent,
  process: ContainerProcess,
  { isLost, log, beforeStart, created }: GuestProcessInit,
): ProcessGuest {
  const { containerId, execId } = process;
  return {
    start: async () => {
      await beforeStart?.();
      const started = agent.calls.startProcess({ containerId, execId });
      // The reason is the creation's where that fails.
      started.catch(() => undefined);
      await created;
      const { pid } = await started;
      if (pid === 0)
        throw new SandboxError("ERR_PROTOCOL", "the guest's agent has started a process with pid 0");
      return { pid };
    },
    signal: async (signal, all) => {
      const limit = { timeoutMs: timeoutMs("guestSignal") };
      await agent.calls.signalProcess({ containerId, execId, signal, all }, limit);
    },
    resize: async (columns, rows) => {
      await agent.calls.resizeTerminal({ containerId, execId, columns, rows });
    },
    remove: async () => {
      if (isLost()) return;
      const limit = { timeoutMs: timeoutMs("guestDelete") };
      const removed = agent.calls.deleteProcess({ containerId, execId }, limit).catch((error: unknown) => {
        if (!isLost() && !isGone(error)) throw error;
      });
      // Another exec of this name comes after it: nobody need wait.
      if (execId === "") await removed;
      else
        removed.catch((error: unknown) =>
          log.warn({ err: describeError(error) }, "an exec is left in the guest"),
        );
    },
    dial: async (name, received) => {
      // On a connection of its own, which may be faster.
      await created;
      try {
        return await agent.openStream({
          containerId,
          execId,
          kind: STREAM_KINDS[name],
          received: BigInt(received),
        });
      } catch (cause) {
        if (isLost()) throw new SandboxError("ERR_CANCELED", "the guest is gone", { cause });
        throw cause;
      }
    },
  };
}

const isGone = (error: unknown): boolean =>
  (error instanceof SandboxError && (error.code === "ERR_NOT_FOUND" || error.code === "ERR_UNAVAILABLE")) ||
  errnoOf(error) === "ECONNRESET";
