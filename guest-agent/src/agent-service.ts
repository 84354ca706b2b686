/** The service `caisson.agent.v1.Agent`: maps each call to the part of the agent that does it. */
import type { MessageInitShape } from "@bufbuild/protobuf";
import { SandboxError } from "../../src/base/errors.ts";
import type { Log } from "../../src/base/log.ts";
import {
  Agent,
  type CreateSandboxRequest,
  type CreateSandboxResponseSchema,
  type GuestInfoResponseSchema,
} from "../../src/gen/caisson/agent/v1/agent_pb.ts";
import {
  type CallContext,
  type ServiceHandlers,
  type ServiceRegistration,
  serviceHandlers,
} from "../../src/ttrpc/index.ts";
import type { ContainerRuntime } from "./container-runtime.ts";
import { type FailPoint, withFailPoint } from "./failpoint.ts";
import { cpuTime, kernelRelease, memoryBytes, onlineCpus, ownRssBytes, threads } from "./guest-facts.ts";
import { onlineResources } from "./hotplug.ts";
import type { GuestNetwork } from "./net/network.ts";
import { SHARED_PATH, setUpSandbox } from "./sandbox-setup.ts";
import { type CallSpan, callLog, currentCall, within, withTracing } from "./tracing.ts";
import type { Uevents } from "./uevents.ts";
import { findBlockDevice } from "./volumes/block-device.ts";
import { prepareVolume, removeVolume } from "./volumes/volumes.ts";

/** Milliseconds that Shutdown waits for the killed processes to be gone. */
const STOP_LIMIT_MS = 2_000;

export interface AgentServiceDeps {
  readonly log: Log;
  readonly runtime: ContainerRuntime;
  readonly network: GuestNetwork;
  readonly uevents: Uevents;
  /** Settles once the boot is complete (clock set, drivers of the devices loaded). */
  readonly ready: Promise<void>;
  /** Microseconds since the kernel started. */
  readonly uptimeUs: () => number;
  readonly streamCount: () => number;
  readonly failPoint: FailPoint | undefined;
  /** Ends the guest, soon: the answer to Shutdown gets a chance to leave. */
  readonly shutDown: () => void;
  /** Takes the span of a call that is traced. */
  readonly report: (span: CallSpan) => void;
}

/** The service for a ttrpc server. One sandbox per agent. */
export function agentService(deps: AgentServiceDeps): ServiceRegistration {
  // A container may be asked for before its sandbox is set up.
  let setUp: Promise<unknown> | undefined;
  const handlers = {
    ...sandboxHandlers(deps, (done) => {
      setUp = done;
    }),
    ...containerHandlers(deps, () => setUp),
  };
  return serviceHandlers(Agent, withTracing(withFailPoint(handlers, deps.failPoint), deps.report));
}

type Handlers = ServiceHandlers<typeof Agent>;

/** @param setUp is given the set-up of the sandbox as it begins; never rejects */
function sandboxHandlers(deps: AgentServiceDeps, setUp: (done: Promise<unknown>) => void): Handlers {
  let created = false;
  const { network } = deps;
  return {
    async createSandbox(request) {
      if (created) throw new SandboxError("ERR_ALREADY_EXISTS", "this guest already has its sandbox");
      created = true;
      const call = currentCall();
      const done = deps.ready.then(() => within(call, () => createSandbox(request, deps)));
      setUp(done.catch(() => undefined));
      try {
        return await done;
      } catch (error) {
        created = false;
        throw error;
      }
    },
    async applyNetwork(request) {
      await network.apply(request);
      return {};
    },
    guestInfo: () => guestInfo(deps),
    async onlineResources({ cpus, memoryBytes: memory }) {
      const now = await onlineResources({ cpus, memoryBytes: memory }, deps.uevents, callLog(deps.log));
      return { onlineCpus: now.cpus, memoryTotalBytes: now.memoryBytes };
    },
    async shutdown() {
      await deps.runtime.stopAll(STOP_LIMIT_MS);
      deps.shutDown();
      return {};
    },
  };
}

async function createSandbox(
  request: CreateSandboxRequest,
  deps: AgentServiceDeps,
): Promise<MessageInitShape<typeof CreateSandboxResponseSchema>> {
  setUpSandbox(request);
  if (request.network !== undefined) await deps.network.apply(request.network);
  deps.runtime.configure({
    sandboxId: request.sandboxId,
    hostname: request.hostname,
    sharedPath: SHARED_PATH,
    sharePidNamespace: request.sharePidNamespace,
  });
  return {};
}

function guestInfo(deps: AgentServiceDeps): MessageInitShape<typeof GuestInfoResponseSchema> {
  const memory = memoryBytes();
  const cpu = cpuTime();
  return {
    memoryTotalBytes: memory.total,
    memoryAvailableBytes: memory.available,
    uptimeUs: BigInt(deps.uptimeUs()),
    agentRssBytes: ownRssBytes(),
    kernelRelease: kernelRelease(),
    onlineCpus: onlineCpus(),
    containerCount: deps.runtime.containerCount,
    streamCount: deps.streamCount(),
    cpuUsec: cpu.all,
    kernelUsec: cpu.kernel,
    threadCount: threads(),
  };
}

/** Milliseconds for a process to begin where the caller says nothing. */
const CHILD_LIMIT_MS = 25_000;

/** Of what the caller waits (it knows how slow this machine is), less a part in which the reason gets back to it. */
const childLimitMs = ({ deadline }: CallContext): number =>
  deadline === undefined ? CHILD_LIMIT_MS : Math.max(1, Math.floor(((deadline - performance.now()) * 5) / 6));

/** @param setUp of the sandbox, where that has begun; never rejects */
function containerHandlers(
  { runtime, uevents }: AgentServiceDeps,
  setUp: () => Promise<unknown> | undefined,
): Handlers {
  return {
    findBlockDevice: ({ serial }) => findBlockDevice(serial, uevents),
    prepareVolume(request) {
      prepareVolume(request);
      return {};
    },
    removeVolume({ path }) {
      removeVolume(path);
      return {};
    },
    async createContainer(request, context) {
      const call = currentCall();
      await setUp();
      const create = () => runtime.createContainer(request, childLimitMs(context));
      return { pid: await within(call, create) };
    },
    async createExec(request) {
      await runtime.createExec(request);
      return {};
    },
    async startProcess({ containerId, execId }, context) {
      return { pid: await runtime.startProcess(containerId, execId, childLimitMs(context)) };
    },
    async signalProcess({ containerId, execId, signal, all }) {
      await runtime.signalProcess(containerId, execId, signal, all);
      return {};
    },
    async resizeTerminal({ containerId, execId, columns, rows }) {
      await runtime.resizeTerminal(containerId, execId, columns, rows);
      return {};
    },
    async deleteProcess({ containerId, execId }) {
      await runtime.deleteProcess(containerId, execId);
      return {};
    },
    listProcesses: ({ containerId }) => runtime.listProcesses(containerId),
    containerStats: ({ containerId }) => runtime.stats(containerId),
    async updateContainer({ containerId, resourcesJson }) {
      await runtime.update(containerId, resourcesJson);
      return {};
    },
    async pauseContainer({ containerId }) {
      await runtime.pause(containerId);
      return {};
    },
    async resumeContainer({ containerId }) {
      await runtime.resume(containerId);
      return {};
    },
  };
}
