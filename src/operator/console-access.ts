/** From a word on the command line to a console of a guest. */
import os from "node:os";
import { SandboxError } from "../base/errors.ts";
import { type ConsoleDialer, leaseTools, type ToolsLease } from "./console-client.ts";
import { connectControl, dialConsole } from "./control-client.ts";
import { findTarget } from "./find-target.ts";
import type { OperatorHost } from "./host.ts";
import type { SandboxView } from "./sandbox-view.ts";
import { loadTools } from "./tools.ts";

export interface ConsoleAccess {
  readonly view: SandboxView;
  readonly dial: ConsoleDialer;
  /** For the log of the shim. */
  readonly client: string;
}

/** @throws SandboxError: no such sandbox; it does not run; its configuration forbids the console */
export async function openAccess(word: string, host: OperatorHost): Promise<ConsoleAccess> {
  const view = await findTarget(word);
  const { record, status } = view;
  if (status === undefined) {
    // Says why, in the words for each case.
    using _ = await connectControl(record);
    throw new SandboxError(
      "ERR_STATE",
      `the shim of sandbox ${record.id} does not answer: ${view.problem}; shim logs ${record.id} has what it said last`,
    );
  }
  if (!status.consoleEnabled) {
    const files = status.configFiles.length === 0 ? "its configuration" : status.configFiles.join(", ");
    throw new SandboxError(
      "ERR_PERMISSION",
      `the debug console of sandbox ${record.id} is forbidden by debug_console_enabled = false in [agent.caisson] of ${files}; change it and start the pod anew`,
    );
  }
  if (status.state !== "running") {
    const why = status.failure === "" ? "" : `: ${status.failure.split("\n", 1)[0]}`;
    throw new SandboxError(
      "ERR_STATE",
      `sandbox ${record.id} is ${status.state}${why}; shim logs ${record.id} shows what happened`,
    );
  }
  if (status.guest?.capabilities.includes("console") !== true) {
    throw new SandboxError(
      "ERR_UNSUPPORTED",
      `the agent in sandbox ${record.id} (version ${status.guest?.agentVersion}) has no console; run osbuilder generate and start the pod anew`,
    );
  }
  return { view, dial: () => dialConsole(record), client: whoAsks(host) };
}

/** Sends the tools. @param required without them a container's own programs may still do */
export async function openTools(
  access: ConsoleAccess,
  host: OperatorHost,
  required: boolean,
): Promise<ToolsLease | undefined> {
  let program: Buffer;
  try {
    program = loadTools(host);
  } catch (error) {
    if (required) throw error;
    return undefined;
  }
  return await leaseTools(access.dial, program);
}

/** "root (sudo by alice), pid 4711". */
function whoAsks({ env }: OperatorHost): string {
  const user = os.userInfo().username;
  const sudo = env.SUDO_USER === undefined ? "" : ` (sudo by ${env.SUDO_USER})`;
  return `${user}${sudo}, pid ${process.pid}`;
}
