/** Binds a host-side process to the guest's agent. */

import type { GuestAgent } from "../agent/guest-agent.ts";
import { errnoOf, SandboxError } from "../base/errors.ts";
import { timeoutMs } from "../base/timeouts.ts";
import { StreamKind } from "../gen/caisson/agent/v1/agent_pb.ts";
import type { ContainerProcess, ProcessGuest } from "./container-process.ts";

const KINDS = { stdin: StreamKind.STDIN, stdout: StreamKind.STDOUT, stderr: StreamKind.STDERR } as const;

/**
 * @param isLost whether the guest is gone: then there is nothing left to remove in it.
 * @param beforeStart what the process waits for before it is started.
 */
export function guestProcess(
  agent: GuestAgent,
  process: ContainerProcess,
  isLost: () => boolean,
  beforeStart: () => Promise<void> = async () => undefined,
): ProcessGuest {
  const { containerId, execId } = process;
  return {
    start: async () => {
      await beforeStart();
      const { pid } = await agent.calls.startProcess({ containerId, execId });
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
      try {
        await agent.calls.deleteProcess({ containerId, execId }, { timeoutMs: timeoutMs("guestDelete") });
      } catch (error) {
        if (isLost() || isGone(error)) return;
        throw error;
      }
    },
    dial: async (name, received) => {
      try {
        return await agent.openStream({ containerId, execId, kind: KINDS[name], received: BigInt(received) });
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
