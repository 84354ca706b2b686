/** One shim with a hostile peer, and the world in which several of them live. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { create } from "@bufbuild/protobuf";
import { type Any, AnySchema } from "@bufbuild/protobuf/wkt";
import { EventSchema, type Host } from "../../../src/gen/caisson/agent/v1/agent_pb.ts";
import type { Task } from "../../../src/gen/containerd/task/v2/task_pb.ts";
import { decodeRequest, encodeResponseFrame } from "../../../src/ttrpc/envelope.ts";
import { FrameDecoder } from "../../../src/ttrpc/frame.ts";
import type { Client } from "../../../src/ttrpc/index.ts";
import { busyboxRootfs, busyboxSpec, DirectShim } from "../../harness/direct-shim.ts";
import { assertEven, openDescriptors, takeSnapshot } from "../../harness/leak-ledger.ts";
import { runOk } from "../../harness/run.ts";
import { WITHOUT_TEMPLATE } from "../../harness/test-host.ts";
import { createWorld, type World } from "../../harness/world.ts";
import { HostilePeer } from "./hostile-peer.ts";

/** What the agent does with a call: `id` is that of its frames. */
export type Behaviour =
  | "politely"
  | ((method: string, id: number, send: (bytes: Uint8Array) => void) => void);

export interface Trials extends AsyncDisposable {
  start(init: { readonly env?: Readonly<Record<string, string>> }): Promise<HostileTrial>;
  /** @throws when something is left of the trials so far. */
  assertEven(): Promise<void>;
}

export async function startTrials(): Promise<Trials> {
  const world = await createWorld();
  await busyboxRootfs(world);
  const before = takeSnapshot(world);
  let count = 0;
  return {
    start: ({ env = {} }) => {
      count += 1;
      return HostileTrial.start(world, `t${count}`, env);
    },
    assertEven: () => assertEven(world, before, [], 20_000),
    [Symbol.asyncDispose]: () => world[Symbol.asyncDispose](),
  };
}

export class HostileTrial implements AsyncDisposable {
  readonly id: string;
  readonly shim: DirectShim;
  readonly peer: HostilePeer;
  readonly task: Client<typeof Task>;
  behave: Behaviour = "politely";
  readonly #world: World;
  #host: Client<typeof Host> | undefined;
  #fifos = 0;

  private constructor(
    world: World,
    id: string,
    shim: DirectShim,
    peer: HostilePeer,
    task: Client<typeof Task>,
  ) {
    this.#world = world;
    this.id = id;
    this.shim = shim;
    this.peer = peer;
    this.task = task;
  }

  static async start(world: World, id: string, env: Readonly<Record<string, string>>): Promise<HostileTrial> {
    const peer = await HostilePeer.start(world, id);
    const spec = busyboxSpec(world, id, ["sleep", "1000"]);
    // A template with which no hello comes is given up, and this one is everybody's.
    const config = { ...WITHOUT_TEMPLATE, ...peer.config };
    const shim = await DirectShim.start({ world, id, spec, config, env });
    return new HostileTrial(world, id, shim, peer, await shim.task());
  }

  async create(): Promise<void> {
    const rootfs = await busyboxRootfs(this.#world);
    await this.task.create({ id: this.id, bundle: this.shim.bundle, rootfs: [rootfs] });
  }

  /** Says hello; from then on calls are answered as `behave` says. */
  async greet(): Promise<void> {
    const ask = this.peer.onDial;
    this.peer.onDial = (socket, port) => {
      if (port !== 1024) return ask(socket, port);
      const send = (bytes: Uint8Array) => void socket.write(bytes);
      const decoder = new FrameDecoder({
        onFrame: ({ streamId }, data) => this.#answer(decodeRequest(data).method, streamId, send),
        onOversize: () => undefined,
      });
      socket.on("data", (chunk: Buffer) => decoder.push(chunk));
    };
    this.#host = (await this.peer.greet()).host;
  }

  #answer(method: string, id: number, send: (bytes: Uint8Array) => void): void {
    if (this.behave !== "politely") {
      this.behave(method, id, send);
      return;
    }
    // Field 1 of the answers to CreateContainer and StartProcess is a pid.
    const payload = /^(CreateContainer|StartProcess)$/.test(method) ? Uint8Array.of(8, 7) : new Uint8Array();
    send(encodeResponseFrame(id, { payload }));
  }

  /** The guest's events. */
  get host(): Client<typeof Host> {
    if (this.#host === undefined) throw new Error("greet() comes first");
    return this.#host;
  }

  /** The guest says that an exec, or the container with "", has ended. */
  async exited(execId: string, status: number): Promise<void> {
    const value = { containerId: this.id, execId, status, exitedAtUnixNano: 1_700_000_000_000_000_000n };
    await this.host.notify({
      events: [create(EventSchema, { event: { case: "processExited", value } as never })],
    });
  }

  /** The shim's own process. */
  get pid(): number {
    // The process has a title in place of its arguments; its configuration file is in its environment.
    const found = this.#world
      .processes()
      .find(
        ({ pid, commandLine }) =>
          commandLine === "caisson-shim" &&
          readFileSync(`/proc/${pid}/environ`, "latin1").includes(`/${this.id}.toml`),
      );
    if (found === undefined) throw new Error("the shim is gone");
    return found.pid;
  }

  residentKib(): number {
    return Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${this.pid}/status`, "utf8"))?.[1]);
  }

  /** Waits until the shim has at most `most` descriptors open. */
  async untilDescriptors(most: number): Promise<void> {
    const deadline = performance.now() + 15_000;
    for (;;) {
      const open = openDescriptors(this.pid);
      if (open.length <= most) return;
      if (performance.now() > deadline)
        throw new Error(`${open.length} descriptors, not ${most}: ${open.join(" ")}`);
      await sleep(50);
    }
  }

  /** The shim answers, and no container is there. */
  async assertAlive(): Promise<void> {
    await this.task.connect({ id: this.id }).catch((error: unknown) => {
      if (!/not found|no sandbox/i.test(String(error))) throw error;
    });
  }

  /** A new named pipe that nobody reads. */
  async fifo(): Promise<string> {
    this.#fifos += 1;
    const path = join(this.#world.dir, `${this.id}.fifo${this.#fifos}`);
    await runOk(["mkfifo", path]);
    return path;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.shim[Symbol.asyncDispose]();
    await this.peer[Symbol.asyncDispose]();
  }
}

export const processSpec = (args: readonly string[]): Any =>
  create(AnySchema, {
    typeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Process",
    value: Buffer.from(JSON.stringify({ args, cwd: "/", env: ["PATH=/bin"], user: { uid: 0, gid: 0 } })),
  });
