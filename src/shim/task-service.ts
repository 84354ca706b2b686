/**
 * containerd.task.v2.Task and .v3.Task: translates messages to Tasks and back. The two versions have equal messages;
 * one set of handlers serves both.
 */
import { create, fromBinary } from "@bufbuild/protobuf";
import { type Any, AnySchema, EmptySchema, timestampFromDate } from "@bufbuild/protobuf/wkt";
import { SandboxError } from "../base/errors.ts";
import { ProcessDetailsSchema } from "../gen/caisson/task/v1/process_details_pb.ts";
import { ProcessDetailsSchema as RuncProcessDetailsSchema } from "../gen/containerd/runc/v1/options_pb.ts";
import type {
  CreateTaskRequest,
  ExecProcessRequest,
  Task as TaskV2,
} from "../gen/containerd/task/v2/task_pb.ts";
import { Status } from "../gen/containerd/v1/types/task_pb.ts";
import { OptionsSchema } from "../gen/runtimeoptions/v1/options_pb.ts";
import type { OciProcess, OciResources } from "../oci/spec.ts";
import type { ServiceHandlers } from "../ttrpc/index.ts";
import { checkIdentifier } from "./arguments.ts";
import type { CreateTask } from "./create-task.ts";
import { packMetrics } from "./metrics.ts";
import { packAny } from "./pack-any.ts";
import type { TaskState, Tasks } from "./tasks.ts";

export interface TaskServiceInit {
  readonly tasks: Tasks;
  readonly version: string;
  /** Called when containerd asked for the end and no task is left. Must not wait for the answer to be sent. */
  readonly onShutdown: () => Promise<void>;
}

const statusOf: Record<TaskState["status"], Status> = {
  created: Status.CREATED,
  running: Status.RUNNING,
  stopped: Status.STOPPED,
  paused: Status.PAUSED,
};

const empty = create(EmptySchema);

export function taskHandlers({
  tasks,
  version,
  onShutdown,
}: TaskServiceInit): ServiceHandlers<typeof TaskV2> {
  return {
    create: async (request, { signal }) => ({ pid: await tasks.create(createTask(request), signal) }),
    start: async ({ id, execId }) => ({ pid: await tasks.start(id, execId) }),
    exec: async (request) => {
      const { id, execId } = request;
      checkIdentifier("exec id", execId);
      await tasks.exec(id, execId, processOf(request), stdioOf(request));
      return empty;
    },
    state: ({ id, execId }) => {
      const { process, bundle, pid, status } = tasks.state(id, execId);
      const { stdin, stdout, stderr, terminal } = process.stdio;
      const exit = process.exit;
      return {
        id,
        execId,
        bundle,
        pid,
        status: statusOf[status],
        stdin,
        stdout,
        stderr,
        terminal,
        ...(exit && { exitStatus: exit.status, exitedAt: timestampFromDate(exit.exitedAt) }),
      };
    },
    pids: async ({ id }) => ({
      processes: (await tasks.pids(id)).map(({ pid, execId, command }) => ({
        pid,
        info: packProcessDetails(execId, command),
      })),
    }),
    kill: async ({ id, execId, signal, all }) => {
      await tasks.kill(id, execId, signal, all);
      return empty;
    },
    wait: async ({ id, execId }) => {
      const { status, exitedAt } = await tasks.wait(id, execId);
      return { exitStatus: status, exitedAt: timestampFromDate(exitedAt) };
    },
    delete: async ({ id, execId }) => {
      const { pid, status, exitedAt } = await tasks.delete(id, execId);
      return { pid, exitStatus: status, exitedAt: timestampFromDate(exitedAt) };
    },
    resizePty: async ({ id, execId, width, height }) => {
      await tasks.resize(id, execId, width, height);
      return empty;
    },
    closeIO: ({ id, execId, stdin }) => {
      if (stdin) tasks.closeStdin(id, execId);
      return empty;
    },
    pause: async ({ id }) => {
      await tasks.pause(id);
      return empty;
    },
    resume: async ({ id }) => {
      await tasks.resume(id);
      return empty;
    },
    update: async ({ id, resources }) => {
      await tasks.update(id, parseJson<OciResources>(resources, "resources"));
      return empty;
    },
    stats: async ({ id }) => ({
      stats: await packMetrics(await tasks.stats(id), tasks.statsFormat),
    }),
    connect: ({ id }) => ({ shimPid: process.pid, taskPid: tasks.taskPid(id), version }),
    checkpoint: () => {
      throw new SandboxError("ERR_UNIMPLEMENTED", "checkpoint of a virtual machine is not offered");
    },
    shutdown: async ({ now }) => {
      if (now || tasks.idle) await onShutdown();
      return empty;
    },
  };
}

/** Bytes of a command line that are passed on: the guest's word is bounded. */
const MAX_COMMAND = 4096;

/** Clients refuse any type but runc's, and skip the fields that they do not know. */
function packProcessDetails(execId: string, command: string): Any {
  const details = packAny(ProcessDetailsSchema, { execId, command: command.slice(0, MAX_COMMAND) });
  return { ...details, typeUrl: RuncProcessDetailsSchema.typeName };
}

function createTask(request: CreateTaskRequest): CreateTask {
  if (request.checkpoint !== "") {
    throw new SandboxError("ERR_UNIMPLEMENTED", "restoring from a checkpoint is not offered");
  }
  return {
    id: checkIdentifier("container id", request.id),
    bundle: request.bundle,
    rootfs: request.rootfs.map(({ type, source, options }) => ({ type, source, options })),
    stdio: stdioOf(request),
    configPath: configPathOf(request.options),
  };
}

const stdioOf = ({ stdin, stdout, stderr, terminal }: CreateTaskRequest | ExecProcessRequest) => ({
  stdin,
  stdout,
  stderr,
  terminal,
});

/** ConfigPath of the runtime options; other option types (runc's) name none. */
export function configPathOf(options: Any | undefined): string {
  if (options === undefined || !options.typeUrl.endsWith("runtimeoptions.v1.Options")) return "";
  return fromBinary(OptionsSchema, options.value).configPath;
}

function processOf(request: ExecProcessRequest): OciProcess {
  return parseJson<OciProcess>(request.spec, "process spec");
}

/** containerd packs JSON into an Any whose type URL names its own Go type. */
function parseJson<T>(any: Any | undefined, what: string): T {
  try {
    const value: unknown = JSON.parse(new TextDecoder().decode((any ?? create(AnySchema)).value));
    if (typeof value === "object" && value !== null) return value as T;
  } catch {
    // reported below
  }
  throw new SandboxError("ERR_INVALID_ARGUMENT", `the request's ${what} is not a JSON object`);
}
