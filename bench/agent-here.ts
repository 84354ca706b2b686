/**
 * The agent as a process of this machine with a container of its own, and the shim's ends of stdio in this process: the way of
 * the bytes through our programs alone, where no processor is emulated and no virtual device stands between.
 */

import { silentLog } from "../src/base/log.ts";
import type { Event } from "../src/gen/caisson/agent/v1/agent_pb.ts";
import { STREAM_KINDS } from "../src/runtime/guest-process.ts";
import { openHostStdio } from "../src/runtime/stdio/open.ts";
import { ProcessIo } from "../src/runtime/stdio/process-io.ts";
import { ContainerWorld } from "../test/integration/guest-agent-container/container-world.ts";
import type { Process, Runner, StdioPaths } from "./runner.ts";

export class AgentHere implements Runner, AsyncDisposable {
  readonly name = "caisson without a machine";
  readonly #world: ContainerWorld;
  readonly #container: string;

  private constructor(world: ContainerWorld, container: string) {
    this.#world = world;
    this.#container = container;
  }

  static async start(): Promise<AgentHere> {
    const world = await ContainerWorld.start();
    try {
      return new AgentHere(world, await world.sleeper());
    } catch (error) {
      await world[Symbol.asyncDispose]();
      throw error;
    }
  }

  async create(execId: string, args: readonly string[], paths: StdioPaths): Promise<Process> {
    const { agent } = this.#world;
    const containerId = this.#container;
    const process = { ...this.#world.spec(args).process };
    const stdio = { terminal: false, stdin: paths.stdin !== undefined, stdout: true, stderr: true };
    await agent.calls.createExec({
      containerId,
      execId,
      processJson: Buffer.from(JSON.stringify(process)),
      stdio,
    });
    const owner = { id: execId, namespace: "bench", log: silentLog };
    const io = new ProcessIo(
      await openHostStdio({ ...paths, stdin: paths.stdin ?? "", terminal: false }, owner),
      silentLog,
    );
    await io.attach((name) => this.#world.open(containerId, execId, STREAM_KINDS[name]));
    return {
      start: async () => void (await agent.calls.startProcess({ containerId, execId })),
      kill: () => this.#world.kill(containerId, 9, execId),
      exited: async () => void (await agent.event((event) => isExitOf(event, execId))),
      remove: async () => {
        io.close();
        await agent.calls.deleteProcess({ containerId, execId });
      },
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#world[Symbol.asyncDispose]();
  }
}

const isExitOf = ({ event }: Event, execId: string) =>
  event.case === "processExited" && event.value.execId === execId;
