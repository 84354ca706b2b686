/**
 * Every call of the Task API in every state of a container and of an exec, as one scenario that any shim can play: a pod
 * whose first container keeps the shim, and further containers that are brought into each state.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Any } from "@bufbuild/protobuf/wkt";
import { Status } from "../../../src/base/errors.ts";
import { Task } from "../../../src/gen/containerd/task/v2/task_pb.ts";
import type { OciProcess, OciResources } from "../../../src/oci/spec.ts";
import { type Client, statusOf } from "../../../src/ttrpc/index.ts";
import { busyboxRootfs, busyboxSpec, DirectShim, type DirectShimInit } from "../../harness/direct-shim.ts";
import type { World } from "../../harness/world.ts";

type TaskClient = Client<typeof Task>;

/** What a call came to: "ok", "waits" (no answer yet), or the name of a gRPC status. */
export interface Outcome {
  readonly code: string;
  readonly message: string;
}

/** Outcomes by call, by state. */
export type Matrix = Readonly<Record<string, Readonly<Record<string, Outcome>>>>;

const containerStates = ["absent", "created", "running", "paused", "stopped", "deleted"] as const;
const execStates = ["absent", "created", "running", "stopped", "deleted"] as const;
type ContainerState = (typeof containerStates)[number];
type ExecState = (typeof execStates)[number];

/** Milliseconds after which a call counts as waiting: a Wait does at once what it does. */
const WAIT_MS = 300;
const CALL_MS = 30_000;
const statusNames = new Map(Object.entries(Status).map(([name, code]) => [code as number, name]));

const json = (type: string, value: unknown): Any =>
  ({
    $typeName: "google.protobuf.Any",
    typeUrl: `types.containerd.io/opencontainers/runtime-spec/1/${type}`,
    value: Buffer.from(JSON.stringify(value)),
  }) as Any;

export const processSpec = (args: readonly string[], changes: OciProcess = {}): Any =>
  json("Process", { args, cwd: "/", env: ["PATH=/bin"], user: { uid: 0, gid: 0 }, ...changes });
export const resourcesOf = (resources: unknown): Any => json("LinuxResources", resources);

async function outcomeOf(call: Promise<unknown>, limitMs: number = CALL_MS): Promise<Outcome> {
  const answered = call.then(
    () => ({ code: "ok", message: "" }),
    (error: unknown) => {
      const { code, message } = statusOf(error);
      return { code: statusNames.get(code) ?? String(code), message };
    },
  );
  const given = new AbortController();
  const waits = sleep(limitMs, { code: "waits", message: "" }, { signal: given.signal });
  waits.catch(() => undefined);
  try {
    return await Promise.race([answered, waits]);
  } finally {
    given.abort();
  }
}

const limitOf = (call: string): number => (call === "Wait" ? WAIT_MS : CALL_MS);

/** A pod on a shim, whose containers are made here. */
export class MatrixPod implements AsyncDisposable {
  readonly shim: DirectShim;
  readonly task: TaskClient;
  readonly #world: World;
  readonly #podId: string;
  readonly #rootfs: { type: string; source: string; options: string[] };
  readonly #ids: string[] = [];
  #count = 0;

  private constructor(
    world: World,
    podId: string,
    shim: DirectShim,
    task: TaskClient,
    rootfs: { type: string; source: string; options: string[] },
  ) {
    this.#world = world;
    this.#podId = podId;
    this.shim = shim;
    this.task = task;
    this.#rootfs = rootfs;
  }

  /** @param init the shim's program and configuration; ours, with the defaults and version 2 of the API, when absent. */
  static async start(
    world: World,
    podId: string,
    init: Pick<DirectShimInit, "program" | "config"> & { readonly service?: typeof Task } = {},
  ): Promise<MatrixPod> {
    const spec = {
      ...busyboxSpec(world, podId, ["sleep", "1000"]),
      annotations: annotationsOf("sandbox", podId),
    };
    const { service = Task, ...rest } = init;
    const shim = await DirectShim.start({ world, id: podId, spec, ...rest });
    const task = await shim.connect(service);
    const rootfs = await busyboxRootfs(world);
    await task.create({ id: podId, bundle: shim.bundle, rootfs: [rootfs] });
    await task.start({ id: podId });
    return new MatrixPod(world, podId, shim, task, rootfs);
  }

  /** @param resources beside the spec's own. */
  create(
    id: string,
    args: readonly string[] = ["sleep", "1000"],
    resources: OciResources = {},
  ): Promise<unknown> {
    const { linux, ...rest } = busyboxSpec(this.#world, id, args);
    const spec = {
      ...rest,
      linux: { ...linux, resources: { ...linux?.resources, ...resources } },
      annotations: annotationsOf("container", this.#podId),
    };
    return this.task.create({ id, bundle: this.shim.addBundle(id, spec), rootfs: [this.#rootfs] });
  }

  newId(): string {
    this.#count += 1;
    const id = `${this.#podId}-${this.#count}`;
    this.#ids.push(id);
    return id;
  }

  /** A new container in `state`. */
  async inState(state: ContainerState): Promise<string> {
    const id = this.newId();
    if (state === "absent") return id;
    await this.create(id);
    if (state === "created") return id;
    await this.task.start({ id });
    if (state === "running") return id;
    if (state === "paused") {
      await this.task.pause({ id });
      return id;
    }
    await this.#end(id);
    if (state === "deleted") await this.task.delete({ id });
    return id;
  }

  /** A new exec of the running container `id` in `state`. */
  async execInState(id: string, state: ExecState): Promise<string> {
    this.#count += 1;
    const execId = `e${this.#count}`;
    if (state === "absent") return execId;
    await this.task.exec({ id, execId, spec: processSpec(["sleep", "1000"]) });
    if (state === "created") return execId;
    await this.task.start({ id, execId });
    if (state === "running") return execId;
    await this.#end(id, execId);
    if (state === "deleted") await this.task.delete({ id, execId });
    return execId;
  }

  async #end(id: string, execId = ""): Promise<void> {
    await this.task.kill({ id, execId, signal: 9 });
    await this.task.wait({ id, execId });
    // runc's shim notes the exit a moment after it has answered Wait.
    await sleep(20);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // What is frozen in a version 1 cgroup cannot be killed, and its namespaces never end.
    for (const id of this.#ids) await this.task.resume({ id }).catch(() => undefined);
    await this.shim[Symbol.asyncDispose]();
  }
}

const annotationsOf = (type: "sandbox" | "container", podId: string) => ({
  "io.kubernetes.cri.container-type": type,
  "io.kubernetes.cri.sandbox-id": podId,
});

type CallMaker = (task: TaskClient, id: string, execId: string) => Promise<unknown>;

/** Calls that leave the container as it is, whatever its state. */
const lookingCalls: Readonly<Record<string, CallMaker>> = {
  State: (task, id, execId) => task.state({ id, execId }),
  ResizePty: (task, id, execId) => task.resizePty({ id, execId, width: 80, height: 25 }),
  CloseIO: (task, id, execId) => task.closeIO({ id, execId, stdin: true }),
  Wait: (task, id, execId) => task.wait({ id, execId }),
};
const containerCalls: Readonly<Record<string, CallMaker>> = {
  ...lookingCalls,
  Pids: (task, id) => task.pids({ id }),
  Connect: (task, id) => task.connect({ id }),
  Stats: (task, id) => task.stats({ id }),
  Update: (task, id) => task.update({ id, resources: resourcesOf({ pids: { limit: 100 } }) }),
};
/** Calls that change it: each gets a container of its own, unless it is refused. */
const changingCalls: Readonly<Record<string, CallMaker>> = {
  Start: (task, id, execId) => task.start({ id, execId }),
  Kill: (task, id, execId) => task.kill({ id, execId, signal: 9 }),
  Delete: (task, id, execId) => task.delete({ id, execId }),
};
const changingContainerCalls: Readonly<Record<string, CallMaker>> = {
  Exec: (task, id) => task.exec({ id, execId: "e", spec: processSpec(["true"]) }),
  ...changingCalls,
  Pause: (task, id) => task.pause({ id }),
  Resume: (task, id) => task.resume({ id }),
};

/** Plays every call on a container in each state. */
export async function containerMatrix(pod: MatrixPod): Promise<Matrix> {
  const matrix: Record<string, Record<string, Outcome>> = {};
  const note = (call: string, state: string, outcome: Outcome) => {
    matrix[call] = { ...matrix[call], [state]: outcome };
  };
  for (const state of containerStates) {
    let id = await pod.inState(state);
    for (const [call, make] of Object.entries(containerCalls)) {
      note(call, state, await outcomeOf(make(pod.task, id, ""), limitOf(call)));
    }
    if (state !== "absent" && state !== "deleted") note("Create", state, await outcomeOf(pod.create(id)));
    for (const [call, make] of Object.entries(changingContainerCalls)) {
      const outcome = await outcomeOf(make(pod.task, id, ""));
      note(call, state, outcome);
      if (outcome.code === "ok") id = await pod.inState(state);
    }
  }
  note("Create", "absent", await outcomeOf(pod.create(pod.newId())));
  return matrix;
}

/** Plays every call on an exec in each state. */
export async function execMatrix(pod: MatrixPod): Promise<Matrix> {
  const matrix: Record<string, Record<string, Outcome>> = {};
  const note = (call: string, state: string, outcome: Outcome) => {
    matrix[call] = { ...matrix[call], [state]: outcome };
  };
  const id = await pod.inState("running");
  for (const state of execStates) {
    let execId = await pod.execInState(id, state);
    for (const [call, make] of Object.entries(lookingCalls)) {
      note(call, state, await outcomeOf(make(pod.task, id, execId), limitOf(call)));
    }
    const exec = await outcomeOf(pod.task.exec({ id, execId, spec: processSpec(["true"]) }));
    note("Exec", state, exec);
    if (exec.code === "ok") execId = await pod.execInState(id, state);
    for (const [call, make] of Object.entries(changingCalls)) {
      const outcome = await outcomeOf(make(pod.task, id, execId));
      note(call, state, outcome);
      if (outcome.code === "ok") execId = await pod.execInState(id, state);
    }
  }
  return matrix;
}
